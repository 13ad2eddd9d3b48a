"""Codecs, clips <-> latents, one per file: encode, decode, strides in (t, h, w), latent scale."""
