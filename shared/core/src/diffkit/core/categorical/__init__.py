"""Categorical processes: D3PM, discrete flow matching, and their losses.

>>> process = Absorbing(5)  # four classes and the mask
>>> x0 = sample(wrap(net, process), Jumps(process, stochasticity=10), (8, 20, 5), grid=uniform(100))
"""

from diffkit.core.categorical.d3pm import Absorbing, Marginal, Memoryless, Transition, Uniform
from diffkit.core.categorical.flow import DISTORTIONS, Jumps, distort
from diffkit.core.categorical.logits import log_softmax, wrap
from diffkit.core.categorical.loss import bits, bound, cross_entropy, masked_bound, step_bound
from diffkit.core.categorical.process import SCHEDULES, Categorical, Choice

__all__ = [
    "DISTORTIONS",
    "SCHEDULES",
    "Absorbing",
    "Categorical",
    "Choice",
    "Jumps",
    "Marginal",
    "Memoryless",
    "Transition",
    "Uniform",
    "bits",
    "bound",
    "cross_entropy",
    "distort",
    "log_softmax",
    "masked_bound",
    "step_bound",
    "wrap",
]
