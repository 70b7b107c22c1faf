"""What is trained: a network that names the class of every voxel, from the image and a noisy mask.

A mask is one-hot, classes last, ``[batch, x, y, z, K]``, and the network gives logits, whose softmax p is trained by
cross-entropy. That is least where p are the probabilities of the classes given image and noisy mask, whatever the
noise; and these are the denoiser, with nothing left to convert:

* of a Gaussian process on x0 = 2 onehot - 1 (analog bits, Chen et al. 2022, 2208.04202), E[x0 | x_t] = 2p - 1;
* of a categorical one on the mask itself, E[x0 | x_t] = p.

Image and mask enter as channels: Wu et al. 2022 (2211.00611), and in 3D Dong and Gong 2024 for PET and CT. But a noisy
mask enters as what each voxel of it says of its own class, the posterior under equal chances, softmax(e) of

    e_k = log q(x_t | x0 = k),

which is silent at t = 1, where the network then is a plain segmenter, and shouts at t = 0; fed x_t itself it sees the
more noise the less that means. And by Bayes' rule, noise being independent between voxels,

    p(x0 = k | image, x_t) ~ p(x0 = k | image, x_t elsewhere) q(x_t | x0 = k),

so that e is added to the logits: what a voxel says of itself is exact, and the network learns what others say of it.
It is not told the time, which the size of e shows.
Without a process the network sees the image alone, and is a plain segmenter in every other respect the same.

A mask of many voxels that agree with their neighbours can be read under strong noise, so what the image must decide is
decided near t = 1. Times of a uniform u are therefore shift(u, mu) (Esser et al. 2024, 2403.03206, eq. 23), in training
and in sampling; on a rectified flow that is the scale 1/mu of the bits, 0.1 in Chen et al. 2022 (2210.06366).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffkit.core.categorical import Categorical, cross_entropy
from diffkit.core.grid import shift
from diffkit.core.process import Gaussian
from diffkit.core.train import Task
from diffkit.core.train.loss import uniform_times
from diffkit.core.types import expand_as, float64
from diffkit.medical.checkpoints import load_segmenter
from diffkit.medical.volumetric import Volumetric

Noise = Gaussian | Categorical | None
"""What a mask is hidden by; None of a plain segmenter."""


def state(process: Noise, onehot: Tensor) -> Tensor:
    """x0 of masks or of probabilities, and so E[x0 | x_t] of those a network gives."""
    return 2 * onehot - 1 if isinstance(process, Gaussian) else onehot


def evidence(process: Gaussian | Categorical, x: Tensor, t: Tensor) -> Tensor:
    """log q(x_t = ``x`` | x0 = k) for every class k but for a constant, ``[..., K]`` of at most 100 in size."""
    if isinstance(process, Categorical):
        return process.backward(x, torch.zeros_like(t), t).clamp(min=1e-37).log()
    logits = expand_as(2 * process.a(t) / process.s(t).square().clamp(min=1e-12), x) * x
    return logits.clamp(-_CERTAIN, _CERTAIN)


_CERTAIN = 100.0  # nats, in which float32 still tells logits apart


def log_probability(network: nn.Module, process: Noise, image: Tensor, x: Tensor | None, t: Tensor) -> Tensor:
    """The logarithms of the probabilities of the classes, ``[batch, x, y, z, K]``, at least in float32.

    ``image`` ``[batch, channels, x, y, z]``, ``x`` the noisy masks and ``t`` their times, a scalar or ``[batch]``.
    A plain segmenter (``process`` None) takes no notice of both.
    """
    t = float64(t)
    if x is None or process is None:
        return network(image).movedim(1, -1).float().log_softmax(-1)
    own = evidence(process, x.float(), t)
    said = own.softmax(-1) * own.shape[-1] - 1
    seen = torch.cat([image, said.movedim(-1, 1).to(image)], 1)
    return (network(seen).movedim(1, -1).float() + own).log_softmax(-1)


class SegmentTask(Task):
    """Segmentation by diffusion of the mask, or plainly.

    Args:
        network: of the data's channels and, with a process, as many classes again as inputs.
        process: from masks to noise; None trains a plain segmenter.
        dice: the weight of the soft Dice loss (Milletari et al. 2016, 1606.04797) of all classes but the background,
            beside the cross-entropy. It helps rare classes, and is no proper score: with it p leans to certainty.
        shift: mu of the times (see the module).
        plain: the share of crops whose mask says nothing, t = 1, as at the first call of every sample: what the image
            alone decides is learnt there, and other crops leave little of it to learn.
        init: a segmenter, by name or folder, with whose weights training starts; of one without a process the network
            then knows all but what a noisy mask says.
        learning_rate, weight_decay, warmup: of :class:`~diffkit.core.train.Task`.

    ValueError, when training begins, for a network of other numbers of channels or classes than the data, or crops
    that it cannot halve as often as it does.
    """

    def __init__(
        self,
        network: Volumetric,
        process: Noise = None,
        *,
        dice: float = 0.0,
        shift: float = 1.0,
        plain: float = 0.0,
        init: str | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup: int = 100,
    ) -> None:
        super().__init__(network, learning_rate=learning_rate, weight_decay=weight_decay, warmup=warmup)
        self.network: Volumetric
        if init is not None:
            adopted = load_segmenter(init).network
            assert isinstance(adopted, Volumetric)
            network.adopt(adopted)
        if not 0 <= plain < 1:
            raise ValueError(f"the share of plain crops is at least 0 and below 1, not {plain:g}.")
        self.process, self.dice, self.shift, self.plain = process, dice, shift, plain
        self.size = int(network.arguments["outputs"])

    def setup(self, stage: str) -> None:
        self.check(self.trainer.datamodule.spec())  # pyright: ignore[reportAttributeAccessIssue]

    def check(self, spec: dict[str, Any]) -> None:
        """ValueError unless network and process have the channels and classes of ``spec``, and its crops fit."""
        channels, classes = len(spec["channels"]), len(spec["classes"])
        size = self.process.size if isinstance(self.process, Categorical) else classes
        wanted = {"inputs": channels + (0 if self.process is None else size), "outputs": size}
        own = {name: self.network.arguments[name] for name in wanted}  # pyright: ignore
        if own != wanted or size < classes:
            raise ValueError(
                f"{channels} channels and {classes} classes need {wanted['inputs']} inputs and "
                f"{max(classes, size)} outputs of a network, not {own['inputs']} and {own['outputs']}."
            )

        multiple = self.network.multiple
        if any(side % multiple for side in spec["size"]):
            raise ValueError(
                f"crops of {spec['size']} voxels must have sides that are multiples of {multiple}."
            )

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """The cross-entropy in nats of a voxel, and where it counts the Dice loss, at random times."""
        from monai.losses.dice import DiceLoss

        image, label = batch
        onehot = F.one_hot(label, self.size).to(image)
        u = uniform_times(len(image), like=image).double() / (1 - self.plain)
        t = shift(u.clamp(max=1.0), self.shift)
        x = None if self.process is None else self.process.corrupt(state(self.process, onehot), t)
        found = log_probability(self.network, self.process, image, x, t)
        terms = {"entropy": cross_entropy(found, onehot)}
        if not self.dice:
            return {"loss": terms["entropy"]}
        terms["dice"] = DiceLoss(include_background=False, batch=True)(
            found.exp().movedim(-1, 1), onehot.movedim(-1, 1)
        )
        return {"loss": terms["entropy"] + self.dice * terms["dice"], **terms}
