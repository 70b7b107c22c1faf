"""Parity with diffusers and k-diffusion: the same levels, network, start and noise give the same end.

Their samplers know a process by its levels sigma = s/a alone, and carry the state either variance preserving
(`Cosine`, of any level), as x0 + sigma eps (`EDM`) or on the straight line (`RectifiedFlow`). The network is
a function of the state, so that nothing depends on how they round times. States are float64; some schedulers
round them and their tables to float32, which leaves 1e-7. Where released code departs from the mathematics,
docs/differences.md says how far, and the `legacy` form of ours is compared here.
"""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor

from diffkit.core.plan import Plan, integrate
from diffkit.core.process import EDM, Cosine, Gaussian, RectifiedFlow
from diffkit.core.solvers import Solver, adams, ddim, dpm_solver, dpmpp_2m, dpmpp_3m, dpmpp_sde, heun
from diffkit.core.solvers.deis import deis

STEPS = 12
VP, VE, LINE = Cosine(), EDM(200.0), RectifiedFlow()
"""The three forms of a state; the largest level of their tables is 157."""

pytestmark = pytest.mark.filterwarnings(  # their tables pass through NumPy, and "dpmsolver" is to be removed
    "ignore:__array_wrap__:DeprecationWarning", "ignore:.*dpmsolver:FutureWarning"
)


def network(x: Tensor, t: object = None) -> Tensor:
    return torch.tanh(2 * x)


def start(process: Gaussian, grid: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return float(process.s(grid[0])) * torch.randn(2, 3, 4, dtype=torch.float64, generator=generator)


def grid_of(process: Gaussian, sigmas: Tensor) -> Tensor:
    """The times of a sampler's levels, which repeat where it calls twice."""
    levels = torch.unique_consecutive(sigmas.double())
    if process is LINE:
        return levels
    times = process.time(-levels[levels > 0].log())
    return torch.cat([times, torch.zeros(int(levels[-1] == 0), dtype=torch.float64)])


def draws(seed: int = 1) -> Callable[[int, Tensor], Tensor]:
    """One draw after another, as a sampler with a generator takes them."""
    generator = torch.Generator().manual_seed(seed)
    return lambda step, like: torch.randn(like.shape, dtype=like.dtype, generator=generator)


MULTISTEP, SINGLESTEP = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
NOISE = ("EulerAncestralDiscreteScheduler", "KDPM2DiscreteScheduler")
"""These take no x0 prediction."""


def make(scheduler: str, **options: Any) -> Any:
    """A scheduler of diffusers that is ready for :data:`STEPS` steps, its levels in float64."""
    diffusers = pytest.importorskip("diffusers")
    base: dict[str, Any] = {"prediction_type": "sample"}
    if scheduler.startswith("Flow"):
        base = {}
    elif "use_flow_sigmas" in options:
        base = {"prediction_type": "flow_prediction"}
    elif scheduler in NOISE:
        base = {"prediction_type": "epsilon"}
    if scheduler in (MULTISTEP, SINGLESTEP):
        base |= {"lower_order_final": False, "final_sigmas_type": "zero"}
    made = getattr(diffusers, scheduler)(**(base | options))
    made.set_timesteps(STEPS)
    made.is_scale_input_called = True  # ours takes the state as it is
    if hasattr(made, "sigmas"):
        made.sigmas = made.sigmas.double()
    return made


def compare(theirs: Any, process: Gaussian, grid: Tensor, plan: Plan) -> None:
    """Both loops from one start end within 1e-6, after as many calls."""
    x = sample = start(process, grid)
    draw, replay, generator = draws(), draws(), torch.Generator().manual_seed(1)
    for t in theirs.timesteps:
        output, extra = network(sample), {}
        if theirs.config.get("prediction_type") != "sample":  # eps where a = 1, and eps - x0 on the line
            first = getattr(theirs, "state_in_first_order", True)
            levels = theirs.sigmas if first else theirs.sigmas_interpol.double()
            output = (sample - output) / levels[theirs.step_index or 0]
        if "variance_noise" in signature(theirs.step).parameters:
            extra = {"variance_noise": draw(0, x)}
        elif plan.noisy:
            extra = {"generator": generator}
        sample = theirs.step(output, t, sample, **extra).prev_sample
    ours = integrate(network, x, plan, draw=replay)
    assert plan.nfe == len(theirs.timesteps)
    assert float((ours - sample).abs().max()) < 1e-6


CASES: list[tuple[str, dict[str, Any], Gaussian, Solver]] = [
    ("EulerDiscreteScheduler", {}, VE, ddim()),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, VE, adams(1)),
    ("EulerAncestralDiscreteScheduler", {}, VE, ddim(1.0)),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, LINE, ddim()),
    ("HeunDiscreteScheduler", {}, VE, heun()),
    ("HeunDiscreteScheduler", {"use_karras_sigmas": True}, VE, heun()),
    ("LMSDiscreteScheduler", {}, VE, deis(4, "rho")),
    ("LMSDiscreteScheduler", {"use_karras_sigmas": True}, VE, deis(4, "rho")),
    ("KDPM2DiscreteScheduler", {}, VE, dpm_solver(2, "noise")),
    (MULTISTEP, {"solver_order": 1}, VP, ddim()),
    (MULTISTEP, {}, VP, dpmpp_2m()),
    (MULTISTEP, {"lower_order_final": True}, VP, dpmpp_2m(lower_order_final=True)),
    (MULTISTEP, {"use_flow_sigmas": True}, LINE, dpmpp_2m()),
    (MULTISTEP, {"use_karras_sigmas": True}, VP, dpmpp_2m()),
    (MULTISTEP, {"solver_type": "heun"}, VP, adams(2)),
    (MULTISTEP, {"solver_order": 3}, VP, dpmpp_3m(legacy=True)),
    (MULTISTEP, {"solver_order": 3, "use_lu_lambdas": True}, VP, dpmpp_3m(legacy=True)),
    (MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}, VP, dpmpp_sde(1)),
    (MULTISTEP, {"algorithm_type": "sde-dpmsolver++"}, VP, dpmpp_sde(2)),
]


@pytest.mark.parametrize(("scheduler", "options", "process", "solver"), CASES)
def test_diffusers(scheduler: str, options: dict[str, Any], process: Gaussian, solver: Solver) -> None:
    theirs = make(scheduler, **options)
    grid = grid_of(process, theirs.sigmas)
    compare(theirs, process, grid, solver(process, grid))


@pytest.mark.parametrize(("algorithm", "prediction"), [("dpmsolver++", "data"), ("dpmsolver", "noise")])
def test_diffusers_single_steps(algorithm: str, prediction: Any) -> None:
    """Theirs take their inner nodes from the grid: on one equal in lambda they are where ours are."""
    theirs = make(SINGLESTEP, algorithm_type=algorithm, final_sigmas_type="sigma_min")
    theirs.sigmas = torch.linspace(3, -3, STEPS + 1, dtype=torch.float64).exp()
    grid = grid_of(VP, theirs.sigmas)
    compare(theirs, VP, grid, dpm_solver(2, prediction)(VP, grid[::2]))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_diffusers_ddim(eta: float) -> None:
    theirs = make("DDIMScheduler", clip_sample=False, timestep_spacing="trailing")
    theirs.set_timesteps(10)  # where 1000/n is no whole number their steps end beside the next time
    table = theirs.alphas_cumprod.double()
    theirs.alphas_cumprod = table
    levels = (1 / table[theirs.timesteps] - 1).sqrt()
    grid = grid_of(VP, torch.cat([levels, torch.zeros(1, dtype=torch.float64)]))
    theirs.step = partial(theirs.step, eta=eta)
    compare(theirs, VP, grid, ddim(eta)(VP, grid))


K_DIFFUSION: list[tuple[str, dict[str, Any], Callable[[], Solver]]] = [
    ("sample_euler", {}, ddim),
    ("sample_euler_ancestral", {}, lambda: ddim(1.0)),
    ("sample_heun", {}, heun),
    ("sample_lms", {"order": 3}, lambda: deis(3, "rho")),
    ("sample_dpm_2", {}, lambda: dpm_solver(2, "noise")),
    ("sample_dpmpp_2s_ancestral", {"eta": 0.0}, lambda: dpm_solver(2)),
    ("sample_dpmpp_2m", {}, dpmpp_2m),
    ("sample_dpmpp_2m_sde", {"eta": 0.5}, lambda: dpmpp_sde(2, 0.5)),
    ("sample_dpmpp_2m_sde", {}, lambda: dpmpp_sde(2)),
]


@pytest.mark.parametrize(("function", "options", "solver"), K_DIFFUSION)
def test_k_diffusion(function: str, options: dict[str, Any], solver: Callable[[], Solver]) -> None:
    sampling = pytest.importorskip("k_diffusion.sampling")
    sigmas = torch.cat([torch.linspace(4, -4, STEPS).double().exp(), torch.zeros(1).double()])
    grid = grid_of(VE, sigmas)
    plan, x = solver()(VE, grid), start(VE, grid)
    if plan.noisy:
        draw = draws()
        options = options | {"noise_sampler": lambda here, there: draw(0, x)}
    theirs = getattr(sampling, function)(network, x, sigmas, disable=True, **options)
    ours = integrate(network, x, plan, draw=draws())
    assert float((ours - theirs).abs().max()) < 1e-6
