"""Plans a run without its devices: memory, communication, time and price."""
