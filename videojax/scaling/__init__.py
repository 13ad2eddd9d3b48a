"""Definitions, accounting and fits: numpy and scipy only; runs nothing."""
