"""How far a reconstruction is from its reference, by fastMRI's conventions (Zbontar et al. 2018, 1811.08839).

An image is ``[..., height, width]``: the leading axes are the slices of one volume, which is scored as a whole, and
the range is the reference volume's largest magnitude. Of complex images the magnitude counts. ValueError for images
of different shapes, or that are not finite.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d


def psnr(image: Tensor, reference: Tensor) -> float:
    """10 log10(max^2/MSE) in dB; infinite for a perfect copy."""
    image, reference = _magnitudes(image, reference)
    return float(10 * (reference.max().square() / (image - reference).square().mean()).log10())


def nmse(image: Tensor, reference: Tensor) -> float:
    """The squared error as a share of the reference's square."""
    image, reference = _magnitudes(image, reference)
    return float((image - reference).square().sum() / reference.square().sum())


def ssim(image: Tensor, reference: Tensor) -> float:
    """Structural similarity in 7 x 7 windows, up to 1: Wang et al. 2004, as fastMRI and scikit-image have it.

    Variances are those of samples, N/(N - 1) times the windows'; only whole windows count. ValueError for images
    smaller than a window.
    """
    image, reference = _magnitudes(image, reference)
    if min(image.shape[-2:]) < 7:
        raise ValueError(f"structural similarity needs 7 x 7 pixels, not {tuple(image.shape[-2:])}.")
    u, v = (x.reshape(-1, 1, *x.shape[-2:]) for x in (image, reference))
    mean_u, mean_v, uu, vv, uv = (avg_pool2d(x, 7, stride=1) for x in (u, v, u * u, v * v, u * v))
    sample = 49 / 48
    var_u, var_v = sample * (uu - mean_u.square()), sample * (vv - mean_v.square())
    covariance = sample * (uv - mean_u * mean_v)
    c1, c2 = (0.01 * v.max()).square(), (0.03 * v.max()).square()
    above = (2 * mean_u * mean_v + c1) * (2 * covariance + c2)
    below = (mean_u.square() + mean_v.square() + c1) * (var_u + var_v + c2)
    return float((above / below).mean())


def rmse(image: Tensor, reference: Tensor) -> float:
    """The root of the mean squared error in the unit of the images, HU for CT; of real images, with their sign."""
    image, reference = _same(image, reference)
    return float((image - reference).abs().square().mean().sqrt())


def _magnitudes(image: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    image, reference = _same(image, reference)
    if image.is_complex() or reference.is_complex():
        image, reference = image.abs(), reference.abs()
    if not bool(reference.max() > 0):
        raise ValueError("the reference has no positive value, so that there is no range to measure by.")
    return image, reference


def _same(image: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """Both in double precision."""
    if image.shape != reference.shape:
        raise ValueError(
            f"the image is {tuple(image.shape)} and its reference {tuple(reference.shape)}: crop or resample one."
        )
    for name, x in (("image", image), ("reference", reference)):
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"the {name} has values that are not finite, and so no score.")
    kind = torch.complex128 if image.is_complex() or reference.is_complex() else torch.float64
    return image.to(kind), reference.to(kind)
