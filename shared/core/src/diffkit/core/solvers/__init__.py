"""Solvers: functions ``(process, grid) -> Plan``, one family to a file; samplers that are no table.

>>> plan = adams(2)(VP(), uniform(20))
"""

from collections.abc import Callable

from diffkit.core.solvers.adams import adams
from diffkit.core.solvers.base import Solver
from diffkit.core.solvers.ddim import ddim
from diffkit.core.solvers.dpmpp import dpmpp_2m, dpmpp_3m, dpmpp_sde
from diffkit.core.solvers.heun import heun
from diffkit.core.solvers.langevin import Sampler, pc, predictor_corrector
from diffkit.core.solvers.singlestep import dpm_solver

SOLVERS: dict[str, Callable[..., Solver | Sampler]] = {
    "ddim": ddim,
    "ancestral": lambda: ddim(eta=1.0),
    "adams": adams,
    "heun": heun,
    "dpm_solver": dpm_solver,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m": dpmpp_3m,
    "dpmpp_sde": dpmpp_sde,
    "pc": pc,
}
"""Every solver by its name on a command line."""

__all__ = [
    "SOLVERS",
    "Sampler",
    "Solver",
    "adams",
    "ddim",
    "dpm_solver",
    "dpmpp_2m",
    "dpmpp_3m",
    "dpmpp_sde",
    "heun",
    "pc",
    "predictor_corrector",
]
