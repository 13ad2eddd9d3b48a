"""What quality is: each measure says its unit, its direction, its floor and its baselines."""
