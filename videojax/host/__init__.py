"""The host process: its settings, its signals, and the other processes of the run."""
