"""Architectures, one per file, in the order of the forward pass. See docs/architecture.md."""
