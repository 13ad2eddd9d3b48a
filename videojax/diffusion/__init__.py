"""Diffusion mathematics: process, denoiser, objective, samplers, guidance; no networks."""
