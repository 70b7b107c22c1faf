r"""What a network is told of the structure of a graph that message passing does not see.

Cycles through each node by their lengths, in closed form of the powers of the adjacency A (Harary and Manvel 1971),
as DiGress counts them (Vignac et al. 2022, 2209.14734), degrees, and powers of the normalised adjacency

    S = D^(-1/2) A D^(-1/2) = I - L = sum over i of (1 - lambda_i) v_i v_i^T,

L being the normalised Laplacian with eigenvalues lambda and eigenvectors v. Entries of S^k are random walks, as in
DeFoG (Qin et al. 2024, 2410.04263), symmetrised; they tell nodes and pairs of the eigenvectors, and tr S^k tells the
graph of the eigenvalues: of high powers, how many components it has. Eigenvectors themselves have no sign, and with
equal eigenvalues no basis, so that a network of them is not equivariant; and a device waits for them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from diffkit.core.categorical.process import wide


class Structure(NamedTuple):
    """Features of nodes ``[batch, n, nodes]``, of pairs ``[batch, n, n, pairs]``, of graphs ``[batch, globals]``."""

    nodes: Tensor
    pairs: Tensor
    graph: Tensor


def structure(adjacency: Tensor, mask: Tensor, walks: int = 8, squarings: int = 3) -> Structure:
    """The features of graphs ``adjacency`` ``[batch, n, n]``, 0 or 1, whose nodes ``mask`` ``[batch, n]`` says.

    Walks have the lengths 1 to ``walks`` and then ``squarings`` times double the last. Counts are logarithms,
    log(1 + count). At least in float32. See :func:`sizes` for how many features there are.
    """
    A = adjacency.to(wide(adjacency.dtype))
    present = mask.to(A)
    size = present.sum(1, keepdim=True)
    degree = A.sum(2)
    around, total = _cycles(A, degree)
    root = degree.clamp(min=1).rsqrt()
    step = A * root[:, :, None] * root[:, None, :]
    powers = [step]
    while len(powers) < walks:
        powers.append(powers[-1] @ step)
    for _ in range(squarings):
        powers.append(powers[-1] @ powers[-1])
    pairs = torch.stack(powers, -1)
    back = pairs.diagonal(dim1=1, dim2=2).mT
    share = degree / size.clamp(min=2).sub(1)
    nodes = torch.cat([share[..., None], degree.log1p()[..., None], around.log1p(), back], -1)
    graph = torch.cat([size.log(), share.sum(1, keepdim=True) / size, total.log1p(), back.sum(1) / size], -1)
    return Structure(nodes * present[..., None], pairs, graph)


def sizes(walks: int = 8, squarings: int = 3) -> tuple[int, int, int]:
    """How many features :func:`structure` has of nodes, pairs and graphs."""
    powers = walks + squarings
    return 5 + powers, powers, 6 + powers


def _cycles(A: Tensor, degree: Tensor) -> tuple[Tensor, Tensor]:
    """The 3-, 4- and 5-cycles through each node ``[batch, n, 3]``; the 3- to 6-cycles of each graph ``[batch, 4]``."""
    A2 = A @ A
    A3 = A2 @ A
    A4 = A2 @ A2
    closed = [power.diagonal(dim1=1, dim2=2) for power in (A3, A4, A4 @ A)]
    three, four, five = closed
    neighbours = (A @ torch.stack([degree, three], -1)).unbind(-1)
    beside = ((A * A2) @ degree[..., None])[
        ..., 0
    ]  # the degrees of those it has a triangle with, once for each
    around = torch.stack(
        [
            three / 2,
            (four - degree * (degree - 1) - neighbours[0]) / 2,
            (five - 2 * three * degree - 2 * beside - neighbours[1] + 5 * three) / 2,
        ],
        -1,
    )
    six = (
        (A3 * A3).sum((1, 2))
        - 3 * three.square().sum(1)
        + 9 * (A * A2.square()).sum((1, 2))
        - 6 * (degree * four).sum(1)
        + 6 * four.sum(1)
        - 4 * three.sum(1)
        + 4 * degree.pow(3).sum(1)
        + 3 * A3.sum((1, 2))
        - 12 * degree.square().sum(1)
        + 4 * degree.sum(1)
    ) / 12
    total = around.sum(1) / torch.tensor([3.0, 4.0, 5.0]).to(A)
    return around.clamp(min=0), torch.cat([total, six[:, None]], 1).clamp(min=0)  # below 0 by rounding
