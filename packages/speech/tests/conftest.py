"""What the tests of the speech package share: checkpoints of small, untrained networks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffkit.core.bridge import SBVE
from diffkit.speech import checkpoints
from diffkit.speech.model import TFNet
from diffkit.speech.spectrum import Spectrum
from diffkit.speech.task import SpeechTask

Save = Callable[..., Path]


@pytest.fixture(scope="session")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Saves an untrained checkpoint; untouched it is the identity, ``wild`` it is a nonlinear filter."""

    def save(kind: str = "enhance", *, wild: bool = False, steps: int = 2) -> Path:
        torch.manual_seed(0)
        network = TFNet(widths=(4, 8), strides=(8, 4), depth=1, paths=1)
        if wild:
            torch.nn.init.normal_(network.out.weight, std=0.1)
        # 7 s, the way from one chunk to the next, are a whole number of hops
        task = SpeechTask(network, SBVE(), Spectrum(hop=250))
        folder = tmp_path_factory.mktemp("checkpoint") / kind
        return checkpoints.save(
            folder, task, kind, "# Untrained\n\nFor tests.\n", {"solver": "ancestral", "steps": steps}
        )

    return save


@pytest.fixture(scope="session")
def identity(save: Save) -> Path:
    """A checkpoint that returns its input."""
    return save()


@pytest.fixture(scope="session")
def wild(save: Save) -> Path:
    """A checkpoint that does something to its input, and depends on the noise."""
    return save(wild=True)
