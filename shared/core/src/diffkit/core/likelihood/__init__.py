r"""log p(x0) under a denoiser, and data as latents: the probability flow of Song et al. 2021 (2011.13456, section 4.3).

With z = x - b y = a x0 + s eps and r^2 = a^2 + s^2, the flow is followed in the angle theta = arctan(s/a) by
u = z/r = cos(theta) x0 + sin(theta) eps:

    du/dtheta = (cos(theta) u - D(z, t))/sin(theta).

It is smooth also where lambda is infinite: -D at a = 0, and 0 at s = 0, since D = u + s^2 score there. A step of
a grid is one of the classical fourth-order method, whose middle is that of the angles, so that the grid read
upward encodes and read downward decodes. The density follows the trace of the slope's Jacobian,

    log p(x0) = log p(z_1) + dims log(a_0 r_1/r_0) + integral of tr(d slope/du) dtheta,      z_0 = a_0 x0.

Besides the steps, the ends err: data is taken for x_t/a at the last time of the grid, which blurs p by
sigma = s/a there, to p + (sigma^2/2) laplacian of p; and the prior for p(z) at the first, where a unit of data
shifts it by a/s deviations.
"""

from diffkit.core.likelihood.bits import bits_per_dim, dequantise
from diffkit.core.likelihood.density import log_prob
from diffkit.core.likelihood.flow import STEPS
from diffkit.core.likelihood.latents import decode, encode, slerp

__all__ = ["STEPS", "bits_per_dim", "decode", "dequantise", "encode", "log_prob", "slerp"]
