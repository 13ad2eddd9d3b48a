"""Costs of published video models and of ours."""
