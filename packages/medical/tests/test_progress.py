"""Progression with a prior whose answer is known."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from torch import Tensor, nn
from torch.nn import functional as F

from diffkit.core.predict import Preconditioned
from diffkit.core.process import Cosine
from diffkit.core.types import expand_as
from diffkit.medical import volume
from diffkit.medical.checkpoints import Prior
from diffkit.medical.cli import main
from diffkit.medical.covariate import BRAIN
from diffkit.medical.picture import series
from diffkit.medical.progress import Progressor
from diffkit.medical.volume import Volume

PROCESS, SIGMA, SPREAD = Cosine(), 0.4, 0.05
SIDE, HEIGHT = 40, 10


def brain(c: Tensor) -> Tensor:
    """Bright slices ``[batch, 1, 40, 40]`` with a dark disc of radius 6 e^(c/2), off the middle."""
    y, x = torch.meshgrid(torch.arange(SIDE) - 17.0, torch.arange(SIDE) - 21.0, indexing="ij")
    return 1 - 0.8 * torch.sigmoid(6 * torch.exp(c / 2)[:, None, None, None] - torch.hypot(x, y))


class Known(nn.Module):
    """The network of slices N(brain(c), SPREAD^2): what training would end at."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, scaled: Tensor, t: Tensor, c: Tensor) -> Tensor:
        target, t = Preconditioned(SIGMA), t.double()
        a, s = (expand_as(f(t), scaled) for f in (PROCESS.a, PROCESS.s))
        x = scaled / expand_as(target.scale(PROCESS, t), scaled)
        mean = F.interpolate(brain(c), x.shape[-2:], mode="bilinear", antialias=True)
        found = mean + a * SPREAD**2 / ((a * SPREAD) ** 2 + s**2) * (x - a * mean)
        p, q, _ = (torch.as_tensor(w) for w in target(PROCESS, t))
        return expand_as(p, x) * found + expand_as(q, x) * (x - a * found) / s


def progressor() -> Progressor:
    config = {"sigma_data": SIGMA, "data": {"size": 2 * SIDE, "spacing": 1.0, "covariate": [-1.0, 1.0]}}
    return Progressor(Prior(Path("known"), Known().eval(), PROCESS, "progress", config))


AFFINE = torch.tensor([[-1, 0, 0, 20], [0, 1, 0, -9], [0, 0, 2.5, 4], [0, 0, 0, 1]], dtype=torch.float64)


def head(c: float = 0.0) -> Volume:
    """Ten alike slices with a texture, their axes to the left, front and top: 5 times the prior's units."""
    slices = brain(torch.tensor([c]))[0, 0].flip(0, 1).T  # rows run from the front, columns from the left
    noise = SPREAD * torch.randn(SIDE, SIDE, HEIGHT, generator=torch.Generator().manual_seed(1))
    return Volume(5 * (slices[..., None] + noise).clamp(min=0)[None], AFFINE)


def mask(reach: float = 14.0, heights: slice = slice(3, 7)) -> Volume:
    y, x = torch.meshgrid(torch.arange(SIDE) - 17.0, torch.arange(SIDE) - 21.0, indexing="ij")
    inside = torch.zeros(1, SIDE, SIDE, HEIGHT)
    inside[0, ..., heights] = (torch.hypot(x, y) < reach).float().flip(0, 1).T[..., None]
    return Volume(inside, AFFINE)


def units(image: Volume) -> Tensor:
    """``[channels, slices, 40, 40]`` in the units of :func:`brain`."""
    return image.data.permute(0, 3, 2, 1).flip(2, 3) / 5


def test_one_round_moves_by_what_the_noise_hides() -> None:
    """The flow of N(mu, d^2) to t and back under mu' moves by (1 - a d/sqrt(a^2 d^2 + s^2)) (mu' - mu).

    Seen at a little noise, of that k = a^2 d^2/(a^2 d^2 + s^2) is left, and 1 - k of mu' - mu is expected.
    """
    found = progressor()(head(), target=1.5, rounds=1, strength=0.4, steps=60, inside=1.0)
    start, end = found.covariates
    assert end - start == pytest.approx(math.log(1.5))
    t = torch.tensor(0.4, dtype=torch.float64)
    a, s = float(PROCESS.a(t)), float(PROCESS.s(t))
    share = 1 - a * SPREAD / math.hypot(a * SPREAD, s)
    t = torch.tensor(0.1, dtype=torch.float64)
    kept = 1 / (1 + (float(PROCESS.s(t)) / (float(PROCESS.a(t)) * SPREAD)) ** 2)
    share = 1 - kept + kept * share
    change = units(found.frames).diff(dim=0)[0]
    # the image's level is found from its brightest voxels, so that its units are those of the prior to some per cent
    before, after = brain(torch.tensor([start, end]))
    expected = share * (after - before)[0]
    assert float((change.mean(0) - expected).norm() / expected.norm()) < 0.25
    assert float((change - change.mean(0)).abs().max()) < 0.03  # the texture of each slice stays


def test_the_covariate_is_read() -> None:
    for c in (-0.6, 0.0, 0.5):
        slices = brain(torch.full((8,), c))
        slices = slices + SPREAD * torch.randn(slices.shape, generator=torch.Generator().manual_seed(0))
        assert progressor().read(slices) == pytest.approx(c, abs=0.02)


def test_volumes_reach_the_target() -> None:
    """Discs of e^c: in the mask all area is fluid or tissue, and beta_2 leaves a part of the last rounds to come."""
    found = progressor()(head(), mask(), ratio=1.0, target=2.0, rounds=5, strength=0.7, steps=12)
    assert found.volumes is not None
    assert len(found.volumes) == len(found.frames.data) == 6
    factors = [ml / found.volumes[0] for ml in found.volumes]
    assert factors == sorted(factors)
    assert factors[-1] == pytest.approx(2.0, rel=0.12)


def test_fluid_in_the_mask_says_how_large_they_are() -> None:
    affine = AFFINE.clone()
    affine[2, 2] = 1000 * BRAIN / 100 / (36 * math.pi) / 4  # mm: four discs of c = 0 are a hundredth
    for c in (-0.3, 0.3):
        image, region = (replace(values, affine=affine) for values in (head(c), mask()))
        found = progressor()(image, region, target=1.1, rounds=1, steps=1)
        assert found.covariates[0] == pytest.approx(c, abs=0.2)  # the discs' edges are soft


def test_air_about_the_head_costs_nothing() -> None:
    sizes: set[torch.Size] = set()
    one = progressor()
    one.prior.config["data"]["size"] = 30  # less than the room of 27 pixels and the margin of 8 about it
    inner = one.denoise

    def denoise(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        sizes.add(x.shape[-2:])
        return inner(x, t, c)

    one.denoise = denoise
    image, region = (replace(v, data=F.pad(v.data, (0, 0, 24, 24, 24, 24))) for v in (head(), mask()))
    change = one(image, region, rounds=1, steps=2, ratio=1.0, outside=1.0).frames.data.diff(dim=0)
    assert sizes == {(27 + 16, 27 + 16)}
    assert float(change[:, 24:-24, 24:-24].abs().max()) > 0.1
    assert float(change[:, :16].abs().max()) == 0.0


def test_a_measured_ratio_is_believed() -> None:
    found = progressor()(head(), mask(), target=1.2, rounds=1, steps=2, ratio=1.5)
    assert found.covariates == pytest.approx([math.log(1.5), math.log(1.8)])


def test_nothing_to_do_changes_nothing() -> None:
    """Exact inversion is exact: the other ways are off by thousands of times as much."""
    errors = {}
    for way in ("exact", "approximate", "renoise"):
        found = progressor()(head(), target=1.0, rounds=2, strength=0.6, steps=8, inside=1.0, way=way)
        errors[way] = float(units(found.frames).diff(dim=0).abs().max())
    assert errors["exact"] < 1e-5  # of float32, in units of the image's range
    assert errors["approximate"] > 1e-2
    assert errors["renoise"] > 1e-2


def test_outside_of_the_mask_nothing_changes() -> None:
    image, region = head(), mask(9.0)
    found = progressor()(image, region, ratio=1.0, rounds=3, strength=0.6, steps=8, outside=1.0)
    change = (found.frames.data - image.data).abs()
    out = (region.data[0] == 0).expand_as(change)
    assert float(change[out].max()) < 1e-5
    assert float(change[~out].max()) > 1.0
    assert float(change[:, :, :, :3].max()) == 0.0  # slices without mask are not even worked on


def test_the_grid_stays() -> None:
    """Also where the prior's pixels are others, and the first frame is the image."""
    one = progressor()
    one.spacing = 1.25
    found = one(head(), mask(), ratio=1.0, rounds=1, steps=3)
    assert torch.equal(found.frames.affine, AFFINE)
    assert torch.equal(found.frames.data[:1], head().data)
    assert float((found.frames.data[1] - head().data[0]).abs().max()) > 0.1


def test_slices_do_not_depend_on_the_batch() -> None:
    runs = [
        progressor()(head(), mask(), ratio=1.0, rounds=1, steps=3, way="renoise", batch_size=size).frames.data
        for size in (1, 4)
    ]
    torch.testing.assert_close(*runs, atol=1e-5, rtol=1e-5)


def test_guidance_goes_further() -> None:
    plain, guided = (
        progressor()(head(), rounds=1, steps=6, scale=scale).frames.data.diff(dim=0).norm()
        for scale in (1.0, 2.0)
    )
    assert float(guided) > 1.05 * float(plain)  # of narrow data little is left of what a round did (k above)


def shifted(mm: float) -> Volume:
    affine = AFFINE.clone()
    affine[0, 3] += mm
    return Volume(mask().data, affine)


@pytest.mark.parametrize(
    ("image", "region", "options", "sentence"),
    [
        (head(), mask(-1.0), {}, "the mask is empty, so that nothing may change"),
        (head(), shifted(3.0), {}, "the image and the mask place the same voxel up to 3 mm apart"),
        (head(), Volume(mask().data[..., :5], AFFINE), {}, "have 40 x 40 x 10 and 40 x 40 x 5 voxels"),
        (Volume(head().data[..., :3], AFFINE), None, {}, "40 x 40 x 3 voxels are no volume"),
        (head().holding(head().data.repeat(2, 1, 1, 1)), None, {}, "give a single channel"),
        (head().holding(head().data * torch.nan), None, {}, "not finite: mend or mask them first"),
        (head().holding(head().data * 0), None, {}, "from 0 to 0, and so no magnitudes"),
        (head().holding(head().data * 100 - 400), None, {}, "give a T1-weighted head"),
        (head(), None, {"way": "ddim"}, "no way 'ddim'"),
        (head(), None, {"strength": 0.0}, r"strength lies in \(0, 1\]"),
        (head(), None, {"rounds": 0}, "rounds, steps and batch_size are at least 1"),
        (head(), None, {"target": 0.0}, "target and ratio above 0"),
        (head(), None, {"ratio": -1.0}, "target and ratio above 0"),
        (head(), None, {"ratio": 0.0}, "target and ratio above 0"),
        (head(), mask(), {}, r"0\.0\d+ per cent of the brain's volume by the fluid in the mask; from there"),
        (
            head(),
            None,
            {"target": 3.0},
            r"by a guess from the image; from there the prior knows targets from 0\.\d+ to 2\.\d, and 3 is beyond",
        ),
    ],
)
def test_bad_input(image: Volume, region: Volume | None, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        progressor()(image, region, **options)


def test_a_prior_without_covariate() -> None:
    with pytest.raises(ValueError, match="is a prior of mr slices, and knows no covariate"):
        Progressor(Prior(Path("prior"), Known(), PROCESS, "mr", {}))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def known(name: str, device: str = "auto", *, bf16: bool = False) -> Progressor:
        return progressor()

    monkeypatch.setattr(Progressor, "from_pretrained", known)
    volume.write(tmp_path / "t1.nii.gz", head())
    volume.write(tmp_path / "mask.nii.gz", mask())
    return tmp_path


def test_command(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "progress",
        str(files / "t1.nii.gz"),
        str(files / "out.nii.gz"),
        "--rounds",
        "3",
        "--steps",
        "4",
    ]
    assert main([*arguments, "--mask", str(files / "mask.nii.gz"), "--ratio", "1"]) == 0
    assert "3 rounds in" in capsys.readouterr().out
    found = volume.read(files / "out.nii.gz")
    assert found.data.shape == (4, SIDE, SIDE, HEIGHT)
    torch.testing.assert_close(found.affine, AFFINE)
    rows = (files / "out.csv").read_text().splitlines()
    assert rows[0] == "round,covariate,volume_ml,factor"
    assert [row.split(",")[0] for row in rows[1:]] == ["0", "1", "2", "3"]
    assert float(rows[-1].split(",")[3]) > 1.2
    assert (files / "out.png").stat().st_size > 1000
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_command_refuses(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    volume.write(files / "far.nii.gz", shifted(3.0))
    output = files / "out.nii.gz"
    call = ["progress", str(files / "t1.nii.gz"), str(output)]
    for options, sentence in (
        (["--mask", str(files / "far.nii.gz")], "up to 3 mm apart"),
        (["--mask", str(files / "none.nii.gz")], "none.nii.gz does not exist"),
        (["--strength", "2"], "strength lies in (0, 1]"),
    ):
        assert main([*call, *options]) == 2
        assert sentence in capsys.readouterr().err
    assert main([*call[:2], str(files / "out.png")]) == 2
    assert "written as .nii.gz" in capsys.readouterr().err
    assert not list(files.glob("*out*"))


def test_a_series_shows_the_front_above_and_the_right_on_the_left(tmp_path: Path) -> None:
    corner = torch.zeros(1, SIDE, SIDE, HEIGHT)
    corner[:, :20, 20:] = 1  # right and front: the axes run to the left, the front and the top
    series({"": head().holding(corner)}, [""], tmp_path / "series.png")
    dark = (torch.from_numpy(imread(tmp_path / "series.png"))[..., 0] < 0.5).nonzero().float()
    middle = (dark.amin(0) + dark.amax(0)) / 2
    assert (dark.mean(0) > middle).all()  # what is bright is as white as the page
