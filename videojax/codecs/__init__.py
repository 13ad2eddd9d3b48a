"""Clips <-> latents, one file each: encode, decode, strides in (t, h, w), latent statistics."""
