"""Every deterministic scheduler of diffusers, driven by a denoiser of the noise level.

A scheduler knows a process by its table of 1000 levels sigma = s/a, and carries x0 + sigma eps in one of
three forms: as it is, scaled to unit variance, or on the straight line. The denoiser is always asked at the
scheduler's own level, never at the whole step that a discrete network would round it to. All begin with the
same noise at their first level, and what they return is taken for their estimate of the data, with what
noise their last level leaves in it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

Level = Callable[[Tensor, float], Tensor]
"""``(x0 + sigma eps, sigma) -> E[x0 | ...]``."""

Options = dict[str, Any]

PLAIN = ("EulerDiscrete", "HeunDiscrete", "LMSDiscrete", "KDPM2Discrete", "EDMEuler", "EDMDPMSolverMultistep")
"""Those whose state is x0 + sigma eps itself."""
TABLED = ("DDIM", "PNDM")
"""Those that step through a table of whole times."""
WANTS_NOISE = ("KDPM2Discrete", "PNDM")
"""Those that do not take a prediction of the data."""


@dataclass(frozen=True)
class Setting:
    """A scheduler with its options; ``name`` is its class without "Scheduler"."""

    name: str
    options: Options

    def __str__(self) -> str:
        return " ".join([self.name, *(k if v is True else f"{k}={v}" for k, v in self.options.items())])

    @property
    def straight(self) -> bool:
        """Whether the state is (1 - sigma') x0 + sigma' eps."""
        return self.name.startswith("Flow") or "use_flow_sigmas" in self.options


def settings() -> Iterator[Setting]:
    """Each scheduler with every combination of its options that leaves it deterministic."""
    spaced: tuple[Options, ...] = ({}, {"timestep_spacing": "leading"}, {"timestep_spacing": "trailing"})
    levels = [{f"use_{kind}_sigmas": True} for kind in ("karras", "exponential", "beta")]
    flow = ({"use_flow_sigmas": True}, {"use_flow_sigmas": True, "flow_shift": 3.0})
    orders = ({"solver_order": 2}, {"solver_order": 3})
    pairs = ({"predictor_order": 2, "corrector_order": 2}, {"predictor_order": 3, "corrector_order": 4})
    # bh1 returns NaN when its last level is 0
    kinds = ({"solver_type": "bh1", "final_sigmas_type": "sigma_min"}, {"solver_type": "bh2"})
    schedules = ({}, {"sigma_schedule": "exponential"})
    choices: dict[str, list[Any]] = {
        **{name: [(*spaced, *levels)] for name in PLAIN[:4]},
        "DDIM": [spaced],
        "PNDM": [({}, {"skip_prk_steps": True}), spaced],
        "IPNDM": [({},)],
        "DPMSolverMultistep": [
            (*orders, {"solver_type": "heun"}),
            (*spaced, *levels, {"use_lu_lambdas": True}, *flow),
        ],
        "DPMSolverSinglestep": [orders, ({}, *levels, *flow)],
        "DEISMultistep": [orders, (*spaced, *levels, *flow)],
        "UniPCMultistep": [orders, kinds, (*spaced, *levels, *flow)],
        "SASolver": [pairs, (*spaced, *levels, *flow)],
        "EDMEuler": [schedules],
        "EDMDPMSolverMultistep": [orders, schedules],
        "FlowMatchEulerDiscrete": [({}, {"shift": 3.0}, *levels)],
        "FlowMatchHeunDiscrete": [({}, {"shift": 3.0})],
    }
    for name, alternatives in choices.items():
        for options in product(*alternatives):
            yield Setting(name, {k: v for part in options for k, v in part.items()})


class Run:
    """One scheduler, ready to sample.

    Args:
        setting: which.
        table: the ``[1000]`` levels of the process at equal times, rising; the last is where all begin.
        spread: the standard deviation of the data.
        calls: how many network calls it may make. ValueError if it cannot make exactly so many.
    """

    def __init__(self, setting: Setting, table: Tensor, spread: float, calls: int) -> None:
        self.setting, self.table, self.spread, self.top = setting, table, spread, float(table[-1])
        fewest = 4 if setting.name == "PNDM" else 1
        for steps in (calls, (calls + 1) // 2, calls - 1, calls - 9):
            if steps >= fewest:
                self.scheduler = self._make(steps)
                if len(self.scheduler.timesteps) == calls:
                    return
        raise ValueError(f"{setting} cannot make {calls} calls.")

    def _make(self, steps: int) -> Any:
        import diffusers

        name, options, steps_or_levels = self.setting.name, dict(self.setting.options), {}
        options |= self._process(steps)
        if name in TABLED:
            options["set_alpha_to_one"] = True
        if name == "DDIM":
            options["clip_sample"] = False
        if name == "SASolver":
            options["tau_func"] = lambda t: 0
        made = getattr(diffusers, f"{name}Scheduler")(**options)
        shift = options.get("shift", 1.0)
        first = self.top / (shift + self.top)  # which the shift takes to top/(1 + top)
        if name == "FlowMatchEulerDiscrete":
            steps_or_levels = {"sigmas": torch.linspace(first, first / steps, steps).tolist()}
        elif name == "FlowMatchHeunDiscrete":
            made.sigma_max = first
        made.is_scale_input_called = True  # the denoiser takes the state as it is
        made.set_timesteps(**(steps_or_levels or {"num_inference_steps": steps}))
        if hasattr(made, "set_begin_index"):  # or they look for the first time, and may find it twice
            made.set_begin_index(0)
        return made

    def _process(self, steps: int) -> Options:
        """The levels, in the form that the constructor takes, and what is predicted."""
        name = self.setting.name
        if name.startswith("EDM"):
            return {"sigma_min": float(self.table[0]), "sigma_max": self.top, "sigma_data": self.spread}
        if name.startswith("Flow"):
            return {}
        if self.setting.straight:  # they begin at 1 - 1/num_train_timesteps, shifted, whatever the table
            count = round(self.top / self.setting.options.get("flow_shift", 1.0)) + 1
            return {"prediction_type": "flow_prediction", "num_train_timesteps": count}
        if name == "IPNDM":
            level = self.table[torch.linspace(999, 0, steps + 1)[:-1].round().long()]
            return {"trained_betas": [*(level / (1 + level**2).sqrt()).tolist(), 0.0]}
        products = torch.cat([torch.ones(1), 1 / (1 + self.table**2)])
        kind = "epsilon" if name in WANTS_NOISE else "sample"
        return {"prediction_type": kind, "trained_betas": (1 - products[1:] / products[:-1]).tolist()}

    def _scales(self, t: Tensor) -> tuple[float, float]:
        """(a, s) of the state that is to be evaluated next."""
        made, name = self.scheduler, self.setting.name
        index = getattr(made, "step_index", 0) or 0
        if name in TABLED:
            product = float(made.alphas_cumprod[int(t)])
            return product**0.5, (1 - product) ** 0.5
        if name == "IPNDM":
            return float(made.alphas[index]), float(made.betas[index])
        between = name == "KDPM2Discrete" and not made.state_in_first_order
        sigma = float((made.sigmas_interpol if between else made.sigmas)[index])
        if name in PLAIN:
            return 1.0, sigma
        if self.setting.straight:
            return 1 - sigma, sigma
        return (1 + sigma**2) ** -0.5, sigma * (1 + sigma**2) ** -0.5

    def _output(self, x: Tensor, data: Tensor, a: float, s: float) -> Tensor:
        """The prediction of the kind that the scheduler takes."""
        noise = (x - a * data) / s
        if self.setting.straight:
            return noise - data
        if self.setting.name == "IPNDM":
            return a * noise - s * data
        if self.setting.name.startswith("EDM"):
            d, scale = self.spread, (s**2 + self.spread**2) ** 0.5
            return (data - x * (d / scale) ** 2) * scale / (s * d)
        return noise if self.setting.name in WANTS_NOISE else data

    def sample(self, denoise: Level, noise: Tensor) -> Tensor:
        """The estimate of x0 from ``noise``."""
        x = noise * self._scales(self.scheduler.timesteps[0])[1]
        for t in self.scheduler.timesteps:
            a, s = self._scales(t)
            x = self.scheduler.step(self._output(x, denoise(x / a, s / a), a, s), t, x).prev_sample
        return x
