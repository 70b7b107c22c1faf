"""Generate graphs, and denoise heterogeneous ones, with diffusion."""
