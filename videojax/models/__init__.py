"""Architectures: one file each, in the order of its forward pass. See docs/architecture.md."""
