"""Diffusion mathematics: process, denoiser, objective, samplers, guidance. Knows no network."""
