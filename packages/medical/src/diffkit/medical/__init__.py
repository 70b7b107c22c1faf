"""Reconstruct, segment and follow medical images with diffusion."""
