"""All processes, and all deterministic solvers, that the laws are run on."""

from diffkit.core.bridge import (
    BBED,
    I2SB,
    IRSDE,
    OUVE,
    RDDM,
    SBVE,
    BrownianBridge,
    Interpolant,
    Resfusion,
    ResShift,
)
from diffkit.core.process import EDM, VE, VP, Cosine, RectifiedFlow, SubVP
from diffkit.core.solvers import adams, ddim, dpm_solver, dpmpp_2m, dpmpp_3m, heun

PLAIN = [VP(), SubVP(), Cosine(), VE(), EDM(), RectifiedFlow()]
BRIDGES = [
    OUVE(),
    BBED(),
    SBVE(),
    IRSDE(),
    ResShift(),
    RDDM(),
    Resfusion(),
    BrownianBridge(),
    I2SB(),
    Interpolant(),
    Interpolant("quadratic"),
    Interpolant("sine"),
]
PROCESSES = PLAIN + BRIDGES
MONOTONE = [p for p in PROCESSES if p != Interpolant("sine")]
"""Those whose lambda falls all the way, so that a solver may cross them whole."""
REPRESENTATIVE = [VP(), RectifiedFlow(), SBVE(), ResShift()]
"""A curved and a straight diffusion, a bridge that ends without noise, one whose noise does not contract."""
PINNED = [SBVE(), BBED(), BrownianBridge(), I2SB(), Interpolant()]

SOLVERS = {
    "ddim": ddim(),
    "adams2": adams(2),
    "adams3": adams(3),
    "adams4": adams(4),
    "adams2 corrected": adams(2, corrector=True),
    "heun": heun(),
    "dpmpp_2m": dpmpp_2m(),
    "dpmpp_3m": dpmpp_3m(),
    "dpmpp_3m legacy": dpmpp_3m(legacy=True),
    "dpm_solver 2": dpm_solver(2),
    "dpm_solver 3": dpm_solver(3),
    "dpm_solver 2 noise": dpm_solver(2, "noise"),
    "dpm_solver 3 noise": dpm_solver(3, "noise"),
}
FAMILIES = ["adams3", "heun", "dpm_solver 2"]
"""Multistep, two calls at grid times, and a call between them."""


def name(value: object) -> str:
    return repr(value).replace("()", "")
