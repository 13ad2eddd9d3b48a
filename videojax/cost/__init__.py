"""What published video models and ours cost."""
