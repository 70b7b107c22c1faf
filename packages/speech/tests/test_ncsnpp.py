"""NCSN++: its size, its gradients, any length, its place among process, target and checkpoint."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from diffkit.core import checkpoint, predict
from diffkit.core.bridge import OUVE, SBVE
from diffkit.speech.ncsnpp import Downsample, NCSNpp, Upsample
from diffkit.speech.spectrum import Spectrum
from diffkit.speech.task import SpeechTask, denoiser

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL: dict[str, Any] = {"nf": 8, "ch_mult": (1, 2, 2), "num_res_blocks": 1, "attention": (16,), "bins": 32}


def small(seed: int = 0, **changes: Any) -> NCSNpp:
    """A small network with no layer left at zero, where training starts some."""
    torch.manual_seed(seed)
    network = NCSNpp(**{**SMALL, **changes})
    for p in network.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    return network


def spectra(frames: int, batch: int = 2, bins: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(frames)
    x, y = 0.3 * torch.randn(2, batch, 2, bins, frames, generator=generator)
    return x, torch.linspace(0.2, 0.9, batch), y


def configured(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / name).read_text())["model"]


@pytest.mark.parametrize(
    ("config", "count"),
    [("sgmse-16k.yaml", 65_590_694), ("sgmse-48k.yaml", 64_739_726), ("sb-ncsnpp.yaml", 65_590_694)],
)
def test_the_configured_networks_are_as_large_as_the_published_ones(config: str, count: int) -> None:
    # The published code counts the 128 fixed Fourier frequencies too: 65,590,822 and 64,739,854.
    model = configured(config)
    with torch.device("meta"):
        network = checkpoint.construct(model["network"])
    assert sum(p.numel() for p in network.parameters()) == count
    assert checkpoint.construct(model["spectrum"]).bins == network.bins


@pytest.mark.parametrize("config", ["sgmse-16k.yaml", "sgmse-48k.yaml"])
def test_configured_noise_is_the_published_complex_noise(config: str) -> None:
    # SGMSE+ draws complex noise of variance 1, 1/2 in each of our channels.
    theta, low, high = (1.5, 0.05, 0.5) if "16k" in config else (2.0, 0.1, 1.0)
    ours, published = checkpoint.construct(configured(config)["process"]), OUVE(theta, low, high)
    t = torch.tensor([0.03, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(ours.a(t), published.a(t))
    torch.testing.assert_close(ours.s(t) * math.sqrt(2), published.s(t), rtol=1e-5, atol=0)


def test_published_division_by_t_is_mild_where_it_trains() -> None:
    t = torch.linspace(0.03, 1, 200, dtype=torch.float64)
    ratio = OUVE().s(t) / t
    assert 0.23 < ratio.min() < ratio.max() < 0.63


@pytest.mark.parametrize("progressive", [True, False])
def test_gradient_reaches_every_parameter(progressive: bool) -> None:
    network = small(progressive=progressive)
    x, t, y = spectra(12)
    network(x, t, y).square().sum().backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_every_parameter_moves_when_trained_from_its_own_start() -> None:
    torch.manual_seed(0)
    network = NCSNpp(**SMALL)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    x, t, y = spectra(12)
    for _ in range(5):
        optimizer.zero_grad()
        (network(x, t, y) - y).square().mean().backward()
        optimizer.step()
    assert not [name for name, p in network.named_parameters() if torch.equal(p, before[name])]


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 13, 16])
def test_any_number_of_frames(frames: int) -> None:
    x, t, y = spectra(frames)
    output = small()(x, t, y)
    assert output.shape == x.shape
    assert output.isfinite().all()


def test_frames_are_mirrored_to_whole_levels() -> None:
    network = small()
    x, t, y = spectra(6)
    longer = [torch.cat([v, v[..., -2:].flip(-1)], -1) for v in (x, y)]
    torch.testing.assert_close(network(x, t, y), network(longer[0], t, longer[1])[..., :6])


def test_items_of_a_batch_do_not_see_each_other() -> None:
    network = small()
    x, t, y = spectra(8, batch=3)
    torch.testing.assert_close(network(x, t, y)[1:2], network(x[1:2], t[1:2], y[1:2]), rtol=1e-4, atol=1e-5)


def test_state_recording_and_time_all_matter() -> None:
    network = small()
    x, t, y = spectra(8)
    output = network(x, t, y)
    for other in (network(x + 0.1, t, y), network(x, t / 2, y), network(x, t, y + 0.1)):
        assert not torch.allclose(output, other, rtol=1e-3)


def test_time_zero_is_finite() -> None:
    x, _, y = spectra(4)
    assert small()(x, torch.zeros(2), y).isfinite().all()


def test_filters_halve_and_double_and_are_adjoint() -> None:
    down, up = Downsample(), Upsample()
    ones = torch.ones(1, 3, 8, 12)
    torch.testing.assert_close(down(ones)[..., 1:-1, 1:-1], torch.ones(1, 3, 2, 4))
    torch.testing.assert_close(up(ones)[..., 1:-1, 1:-1], torch.ones(1, 3, 14, 22))
    x, z = torch.randn(1, 3, 8, 12), torch.randn(1, 3, 4, 6)
    torch.testing.assert_close((4 * down(x) * z).sum(), (x * up(z)).sum(), rtol=1e-4, atol=1e-4)


def test_wrong_sizes_are_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        NCSNpp(nf=6)
    with pytest.raises(ValueError, match="bins is 257, but 7 levels need a multiple of 64"):
        NCSNpp(bins=257)
    x, t, y = spectra(4, bins=64)
    with pytest.raises(ValueError, match="64 frequencies, but the network is for 32"):
        small()(x, t, y)


def test_a_half_precision_checkpoint_describes_and_keeps_it(tmp_path: Path) -> None:
    network = small().eval()
    config = {"task": "enhance", "network": checkpoint.describe(network, **network.arguments)}
    folder = checkpoint.save(tmp_path / "model", network, config, "card")
    other = checkpoint.construct(checkpoint.read_config(folder)["network"])
    checkpoint.load_weights(folder, other)
    assert torch.equal(network.embed.frequencies, other.embed.frequencies)  # pyright: ignore[reportArgumentType]
    x, t, y = spectra(8)
    with torch.no_grad():
        expected, got = network(x, t, y), other(x, t, y)
    assert (expected - got).square().mean().sqrt() < 0.01 * expected.std()


@pytest.mark.parametrize("target", ["x0", "eps"])
def test_it_becomes_a_denoiser(target: str) -> None:
    x, _, y = spectra(8)
    denoise = denoiser(small(), SBVE(), y, predict.TARGETS[target])
    assert denoise(x, torch.tensor(0.5, dtype=torch.float64)).shape == x.shape


@pytest.mark.parametrize("objective", ["score", "data"])
def test_a_few_steps_lower_the_loss(objective: str) -> None:
    torch.manual_seed(0)
    spectrum = Spectrum(n_fft=62, hop=16)
    network = NCSNpp(**SMALL)
    score = objective == "score"
    task = SpeechTask(
        network,
        OUVE(sigma_min=0.0353553, sigma_max=0.353553) if score else SBVE(scale=0.2),
        spectrum,
        target="eps" if score else "x0",
        objective="score" if score else "data",
    )
    time = torch.arange(496) / 16000
    pitch = torch.tensor([[200.0], [300.0], [450.0], [700.0]])
    clean = 0.1 * torch.sin(2 * math.pi * pitch * time)
    batch = clean, clean + 0.05 * torch.randn_like(clean)
    task.eval()

    def held_out() -> float:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(1)
            return sum(float(task.loss(batch)["loss"]) for _ in range(4)) / 4

    start = held_out()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        task.loss(batch)["loss"].backward()
        optimizer.step()
    assert held_out() < 0.7 * start
