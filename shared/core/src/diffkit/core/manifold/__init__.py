"""Manifolds and processes on them: rotations, angles, unit vectors, and R^n beside them.

>>> process = Joint({"r": Brownian(SO3()), "x": VP()})              # frames: rotations and positions
>>> x0 = ancestral(process, denoise, x, uniform(100), draw=draw)    # one call a step for all leaves

A leaf's denoiser returns a point of its manifold (:mod:`~diffkit.core.manifold.processes`).
"""

from diffkit.core.manifold.base import Euclidean, Heated, Manifold
from diffkit.core.manifold.processes import Brownian, Curved, Geodesic
from diffkit.core.manifold.so3 import SO3
from diffkit.core.manifold.sphere import Sphere
from diffkit.core.manifold.torus import Torus

__all__ = ["SO3", "Brownian", "Curved", "Euclidean", "Geodesic", "Heated", "Manifold", "Sphere", "Torus"]
