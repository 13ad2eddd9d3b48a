"""Quality measures: each states its unit, its direction, its floor and its baselines."""
