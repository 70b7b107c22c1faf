"""Steering: populations of particles, weighted and resampled on their way from the prior to the data.

>>> run = fk_steer(denoise, process, (32, 3, 64, 64), reward, particles=4, scale=10.0, seeds=range(8))
>>> images = run.one()  # of each of 8 groups, by weight

A guide bends a trajectory and so leaves the law it aims at; weights say by how much, and resampling acts on them.
"""

from diffkit.core.steer.correct import fk_correct
from diffkit.core.steer.fk import fk_steer
from diffkit.core.steer.particles import Particles, Resampling, ess, multinomial, select, systematic
from diffkit.core.steer.twisted import twisted

__all__ = [
    "Particles",
    "Resampling",
    "ess",
    "fk_correct",
    "fk_steer",
    "multinomial",
    "select",
    "systematic",
    "twisted",
]
