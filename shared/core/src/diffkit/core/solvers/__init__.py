"""Solvers: functions ``(process, grid) -> Plan``, one family to a file; samplers that are no table.

>>> plan = adams(2)(VP(), uniform(20))
"""

from collections.abc import Callable

from diffkit.core.solvers.adams import adams
from diffkit.core.solvers.adaptive import adaptive, dpm_adaptive
from diffkit.core.solvers.base import Solver
from diffkit.core.solvers.churn import churn, restart
from diffkit.core.solvers.ddim import ddim
from diffkit.core.solvers.deis import deis
from diffkit.core.solvers.dmcmc import bayes, denoising_mcmc, level_loss
from diffkit.core.solvers.dpm_ot import Transport, dpm_ot
from diffkit.core.solvers.dpm_v3 import Affine, Statistics, dpm_v3
from diffkit.core.solvers.dpmpp import dpmpp_2m, dpmpp_3m, dpmpp_sde
from diffkit.core.solvers.evodiff import evodiff
from diffkit.core.solvers.geodesic import geodesic
from diffkit.core.solvers.langevin import Sampler, annealed_langevin, pc, predictor_corrector
from diffkit.core.solvers.momentum import ghvb, hb
from diffkit.core.solvers.one_more_step import one_more_step
from diffkit.core.solvers.pndm import ipndm, plms, pndm
from diffkit.core.solvers.reversible import bdia, edict
from diffkit.core.solvers.runge_kutta import heun, runge_kutta
from diffkit.core.solvers.s4 import reverse_diffusion, s4
from diffkit.core.solvers.sa import sa
from diffkit.core.solvers.singlestep import dpm_fast, dpm_solver, fast_grid
from diffkit.core.solvers.teleport import GaussianScore, teleport
from diffkit.core.solvers.time_shift import time_shift
from diffkit.core.solvers.unipc import unipc

SOLVERS: dict[str, Callable[..., Solver | Sampler]] = {
    "ancestral": lambda: ddim(eta=1.0),
    "adams": adams,
    "annealed_langevin": annealed_langevin,
    "bdia": bdia,
    "churn": churn,
    "ddim": ddim,
    "deis": deis,
    "dpm_adaptive": dpm_adaptive,
    "dpm_fast": dpm_fast,
    "dpm_solver": dpm_solver,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m": dpmpp_3m,
    "dpmpp_sde": dpmpp_sde,
    "edict": edict,
    "evodiff": evodiff,
    "ghvb": ghvb,
    "hb": hb,
    "heun": heun,
    "ipndm": ipndm,
    "pc": pc,
    "plms": plms,
    "pndm": pndm,
    "restart": restart,
    "reverse_diffusion": reverse_diffusion,
    "runge_kutta": runge_kutta,
    "s4": s4,
    "sa": sa,
    "time_shift": time_shift,
    "unipc": unipc,
}
"""Every solver that needs no arguments by its name on a command line."""

__all__ = [
    "SOLVERS",
    "Affine",
    "GaussianScore",
    "Sampler",
    "Solver",
    "Statistics",
    "Transport",
    "adams",
    "adaptive",
    "annealed_langevin",
    "bayes",
    "bdia",
    "churn",
    "ddim",
    "deis",
    "denoising_mcmc",
    "dpm_adaptive",
    "dpm_fast",
    "dpm_ot",
    "dpm_solver",
    "dpm_v3",
    "dpmpp_2m",
    "dpmpp_3m",
    "dpmpp_sde",
    "edict",
    "evodiff",
    "fast_grid",
    "geodesic",
    "ghvb",
    "hb",
    "heun",
    "ipndm",
    "level_loss",
    "one_more_step",
    "pc",
    "plms",
    "pndm",
    "predictor_corrector",
    "restart",
    "reverse_diffusion",
    "runge_kutta",
    "s4",
    "sa",
    "teleport",
    "time_shift",
    "unipc",
]
