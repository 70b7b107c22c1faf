r"""X-ray tomography: line integrals of attenuation over parallel and fan beams, in millimetres.

Images are ``[batch, 1, height, width]``, square pixels of ``pixel`` mm, the axis of rotation in the middle, x to
the right and y upwards. Sinograms are ``[batch, 1, views, bins]``. With attenuation in 1/mm they have no unit.
"""

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from diffkit.medical.scan import Fan, Scan


@dataclass(frozen=True, eq=False)
class Projector:
    r"""The line integrals of an image along the rays of a scan, and the exact transpose: Joseph's (1982) method.

    A ray that runs more up than across meets each row of pixels once. The integral is the sum of the image there,
    linear between two neighbours, times the length of the ray from row to row; likewise for columns.

    The matrix is built at the first need for each dtype and device (before torch.compile, so call it once), and held
    with its transpose: in float32 at most 32 max(height, width) bytes a ray. To make data for a test, take an image of
    smaller pixels and :meth:`~diffkit.medical.scan.Scan.finer`: a projector that both makes data and reconstructs them
    is an inverse crime. Differentiable.

    Args:
        scan: the rays.
        shape: height and width of images.
        pixel: their size in mm.

    Warns where the scan does not see the whole disc that the image holds. ValueError where the source of a fan lies
    inside the image, for 2^31 values or more, or an image or sinogram of another shape.
    """

    scan: Scan
    shape: tuple[int, int]
    pixel: float = 1.0
    _kept: dict[tuple[torch.dtype, torch.device], tuple[Tensor, ...]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or not self.pixel > 0:
            raise ValueError(f"an image needs pixels of positive size, not {self.shape} of {self.pixel} mm.")
        if isinstance(self.scan, Fan) and self.scan.source <= math.hypot(*self.shape) / 2 * self.pixel:
            raise ValueError(
                f"the source, {self.scan.source:g} mm from the axis, lies inside the image: move it out, or make the "
                "pixels smaller."
            )
        if len(self.scan.angles) * self.scan.bins * 2 * max(self.shape) >= 1 << 31:
            raise ValueError(
                "the projector's matrix has 2^31 values or more: take fewer views, bins or pixels."
            )
        seen, held = self.scan.radius, min(self.shape) / 2 * self.pixel
        if seen < held:
            warnings.warn(
                f"the scan sees a disc of radius {seen:.4g} mm and the image holds one of {held:.4g} mm: what lies "
                "outside it is measured in some views only.",
                stacklevel=3,
            )

    def A(self, x: Tensor) -> Tensor:
        self.check_image(x)
        return self._times(x, self._matrices(x)).unflatten(-1, (len(self.scan.angles), self.scan.bins))

    def A_adjoint(self, y: Tensor) -> Tensor:
        self.check_sinogram(y)
        forward = self._matrices(y)
        return self._times(y, forward[3:] + forward[:3]).unflatten(-1, self.shape)

    def view(self, index: int) -> "Projector":
        """The projector of one view."""
        with warnings.catch_warnings(action="ignore"):  # the whole scan has said it
            return replace(self, scan=self.scan.view(index))

    def check_image(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1:] != (1, *self.shape):
            raise ValueError(
                f"images of this projector are {('batch', 1, *self.shape)}, not {tuple(x.shape)}."
            )

    def check_sinogram(self, y: Tensor) -> None:
        views, bins = len(self.scan.angles), self.scan.bins
        if y.ndim != 4 or y.shape[1:] != (1, views, bins):
            raise ValueError(
                f"the sinogram is {tuple(y.shape)} and the scan has {views} angles of {bins} bins: give "
                f"{('batch', 1, views, bins)}."
            )

    @staticmethod
    def _times(x: Tensor, matrices: tuple[Tensor, ...]) -> Tensor:
        return _multiply(x.flatten(1).mT.contiguous(), *matrices).mT[:, None]

    def _matrices(self, like: Tensor) -> tuple[Tensor, ...]:
        """Row starts, columns and values of the matrix, and of its transpose."""
        key = like.dtype, like.device
        if key not in self._kept:
            joseph = _joseph(self.scan, self.shape, self.pixel, like.dtype)
            parts = tuple(
                torch.from_numpy(part).to(like.device)
                for m in (joseph, joseph.tocsc())
                for part in (m.indptr, m.indices, m.data)
            )
            with warnings.catch_warnings():  # torch says once in a process that its sparse rows are in beta
                warnings.simplefilter("ignore")
                _sparse(like.new_zeros(joseph.shape[1], 1), *parts)
            self._kept[key] = parts
        return self._kept[key]


def _joseph(scan: Scan, shape: tuple[int, int], pixel: float, dtype: torch.dtype) -> Any:
    """scipy's sparse rows of the lengths of all rays, in order, in the pixels that they meet."""
    from scipy.sparse import coo_array

    parts: list[tuple[Tensor, ...]] = []
    middle = torch.tensor([(shape[1] - 1) / 2, (shape[0] - 1) / 2], dtype=torch.float64)
    for k in range(len(scan.angles)):
        point, direction = (v[0] for v in scan.view(k).rays())
        # in pixels from the first, columns and then rows
        point = point / pixel * torch.tensor([1.0, -1.0]) + middle
        direction = direction * torch.tensor([1.0, -1.0])
        steep = direction[:, 1].abs() >= direction[:, 0].abs()
        for main in (0, 1):
            rays = (steep if main else ~steep).nonzero()[:, 0]
            along = torch.arange(shape[1 - main], dtype=torch.float64)
            slope = direction[rays, 1 - main] / direction[rays, main]
            place = point[rays, 1 - main, None] + slope[:, None] * (along - point[rays, main, None])
            length = pixel * (1 + slope.square()).sqrt()[:, None]
            low = place.floor()
            share = place - low
            across = torch.stack([low, low + 1], -1).int()
            value = torch.stack([(1 - share) * length, share * length], -1)
            here = along[:, None].int()
            pixels = here * shape[1] + across if main else across * shape[1] + here
            inside = (across >= 0) & (across < shape[main]) & (value > 0)
            index = (k * scan.bins + rays[:, None, None]).int().expand(inside.shape)
            parts.append((value[inside].to(dtype), index[inside], pixels[inside]))
    values, rows, columns = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    size = len(scan.angles) * scan.bins, shape[0] * shape[1]
    return coo_array((values, (rows, columns)), shape=size).tocsr()


def _sparse(x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, *_: Tensor) -> Tensor:
    size = (len(starts) - 1, len(x))
    return torch.sparse_csr_tensor(starts, columns, values, size, check_invariants=False) @ x


def _multiply(x: Tensor, *matrices: Tensor) -> Tensor:
    """A sparse matrix in compressed rows, whose transpose comes after it, times ``x`` ``[columns, batch]``.

    An operator of torch's own kind, because torch.compile takes no sparse tensors.
    """
    return torch.ops.diffkit.sparse_multiply(x, *matrices)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    matrices = ctx.saved_tensors
    return (_multiply(grad.contiguous(), *matrices[3:], *matrices[:3]), *[None] * 6)


_NAME = "diffkit::sparse_multiply"
torch.library.define(_NAME, f"(Tensor x, {', '.join(f'Tensor m{i}' for i in range(6))}) -> Tensor")
torch.library.impl(_NAME, "CompositeExplicitAutograd", _sparse)
torch.library.register_fake(_NAME, lambda x, starts, *_: x.new_empty(len(starts) - 1, x.shape[1]))
torch.library.register_autograd(_NAME, _backward, setup_context=_keep)
