"""Inverse problems, y = A x + noise: guides and samplers that restore x from measurements.

>>> guided = pigdm(Mask(known), y, process, noise=0.05)(denoise)
>>> x0 = sample(guided, process, like)

==========  ======================  =====================  ==============================================
method      operator                gradient of network    how it was published
==========  ======================  =====================  ==============================================
ddnm        linear, exact           no                     ``renoised(ddnm(...))``, or ``travel()``
dds         linear                  no                     ``renoised(dds(...))``
diffpir     linear                  no                     ``renoise(eta)``, zeta = eta^2; DPIR: ``plug()``
ddrm        linear, decomposed      no                     itself a sampler
repaint     linear, exact           no                     itself a sampler
flowchef    any                     no                     ``plan=ddim()(RectifiedFlow(), grid)``
dps         any                     yes                    ``plan=ddim(1.0)(process, grid)``
pigdm       linear                  yes                    any solver
steered     any                     yes                    ``travel(1, repeats)``
==========  ======================  =====================  ==============================================

Guides work with every solver; the last column says with which one a paper's own sampler is had.
"""

from collections.abc import Callable

from diffkit.core.inverse.ddrm import ddrm
from diffkit.core.inverse.flowchef import flowchef
from diffkit.core.inverse.krylov import conjugate_gradients
from diffkit.core.inverse.linear import Average, Blur, Coils, Fourier, Mask, Matrix
from diffkit.core.inverse.operator import Decomposed, Operator, check_adjoint
from diffkit.core.inverse.plug import plug
from diffkit.core.inverse.projection import ddnm, dds, diffpir
from diffkit.core.inverse.renoise import renoise, renoised
from diffkit.core.inverse.repaint import repaint, travel
from diffkit.core.inverse.through import dps, pigdm, steered
from diffkit.core.solvers import Sampler
from diffkit.core.types import Guide

INVERSE: dict[str, Callable[..., Guide | Sampler]] = {
    method.__name__: method for method in (ddnm, ddrm, dds, diffpir, dps, flowchef, pigdm, repaint, steered)
}
"""Every method by its name: guides, and the samplers ``ddrm`` and ``repaint``."""

__all__ = [
    "INVERSE",
    "Average",
    "Blur",
    "Coils",
    "Decomposed",
    "Fourier",
    "Mask",
    "Matrix",
    "Operator",
    "check_adjoint",
    "conjugate_gradients",
    "ddnm",
    "ddrm",
    "dds",
    "diffpir",
    "dps",
    "flowchef",
    "pigdm",
    "plug",
    "renoise",
    "renoised",
    "repaint",
    "steered",
    "travel",
]
