"""Runs a sweep: its schedule, and the loop over its cells."""
