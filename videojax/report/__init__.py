"""The report of a sweep, built from its run directories."""
