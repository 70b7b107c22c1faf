"""Tomography: projectors and filtered backprojection against ellipses, whose integrals are known; dose and units."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffkit.core.inverse.operator import check_adjoint
from diffkit.core.testing import check_compiles
from diffkit.medical.ct import Projector
from diffkit.medical.dose import scan_noise, to_attenuation, to_hu
from diffkit.medical.fbp import fbp
from diffkit.medical.metrics import psnr
from diffkit.medical.phantom import Ellipses
from diffkit.medical.scan import Fan, Parallel, Scan

TURN = 2 * math.pi
HEAD = Ellipses.shepp_logan(60.0)


def angles(views: int, arc: float, start: float = 0.2) -> Tensor:
    return start + torch.arange(views, dtype=torch.float64) * (arc / views)


def parallel(views: int, arc: float = math.pi, bins: int = 185) -> Parallel:
    return Parallel(angles(views, arc), bins, 1.0)


def fan(views: int, arc: float = TURN) -> Fan:
    return Fan(angles(views, arc), 190, 2.0, source=200.0, detector=180.0)


SCANS = pytest.mark.parametrize(
    "scan", [parallel(7, bins=50), replace(fan(9), bins=40, spacing=3.0)], ids=["parallel", "fan"]
)


@SCANS
class TestProjector:
    def test_adjoint(self, scan: Scan) -> None:
        projector = Projector(scan, (30, 24), 1.5)
        x = torch.empty(2, 1, 30, 24, dtype=torch.float64)
        assert check_adjoint(projector, x) < 1e-14
        assert check_adjoint(projector, x.float()) < 1e-6
        assert projector.A(x.float()).dtype == torch.float32
        assert check_adjoint(projector, x.to(torch.complex128)) < 1e-14

    def test_derivatives(self, scan: Scan) -> None:
        projector = Projector(scan, (4, 3), 8.0)
        x = torch.randn(1, 1, 4, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(projector.A, x)
        assert torch.autograd.gradgradcheck(lambda x: projector.A(x).square(), x)

    def test_a_view_is_a_row_of_the_whole(self, scan: Scan) -> None:
        projector, x = Projector(scan, (30, 24), 1.5), torch.randn(1, 1, 30, 24)
        torch.testing.assert_close(projector.view(3).A(x), projector.A(x)[:, :, 3:4])

    def test_a_pixel_has_its_mass(self, scan: Scan) -> None:
        """Far bins apart, the integral over a parallel detector of any view is the integral of the image."""
        x = torch.rand(1, 1, 30, 24, dtype=torch.float64)
        fine = scan.finer(8)
        y = Projector(fine, (30, 24)).A(x)
        if isinstance(fine, Parallel):
            # Joseph's lines are 1/8 pixel apart: what a hat of base 2 misses is below a percent
            torch.testing.assert_close(y.sum(-1) * fine.spacing, x.sum().expand(1, 1, 7), rtol=0.01, atol=0)
        torch.testing.assert_close(
            y.unflatten(-1, (-1, 8)).mean(-1),
            Projector(scan, (30, 24)).A(x),
            rtol=0,
            atol=0.12 * float(y.max()),
        )


def test_the_projector_compiles_once_its_matrix_is_built() -> None:
    projector = Projector(parallel(7, bins=50), (8, 6), 4.0)
    projector.A_adjoint(projector.A(torch.zeros(1, 1, 8, 6)))
    check_compiles(
        lambda x: projector.A_adjoint(projector.A(x)), (torch.randn(1, 1, 8, 6),), (torch.randn(1, 1, 8, 6),)
    )


class TestAccuracy:
    @pytest.mark.parametrize("scan", [parallel(12), fan(12)], ids=["parallel", "fan"])
    def test_projections_of_ellipses(self, scan: Scan) -> None:
        """Relative to the exact integrals, halving with the pixels: 2.9 % and 1.4 % for 128 x 128 and 256 x 256."""
        exact = HEAD.sinogram(scan)
        errors: list[float] = []
        for n in (128, 256):
            pixel = 128 / n
            y = Projector(scan, (n, n + 16), pixel).A(HEAD.image((n, n + 16), pixel))
            errors.append(float((y - exact).norm() / exact.norm()))
        assert errors[0] < 0.035
        assert errors[1] < 0.6 * errors[0]

    def test_a_disc_by_hand(self) -> None:
        """Of radius r at distance d from the ray: 2 sqrt(r^2 - d^2); its middle at x = 10, y = 20 mm."""
        disc = Ellipses(torch.tensor([[2.0, 30.0, 30.0, 10.0, 20.0, 0.0]], dtype=torch.float64))
        scan = Parallel(torch.tensor([0.0, math.pi / 2], dtype=torch.float64), 101, 1.0)
        exact = disc.sinogram(scan)
        for view, middle in ((0, 10), (1, 20)):  # x at angle 0, y at a quarter turn
            chord = 2 * (900 - (scan.offsets - middle).square()).clamp(min=0).sqrt()
            torch.testing.assert_close(exact[0, 0, view], 2 * chord)
        image = disc.image((100, 90), 1.2)
        assert float(image[0, 0, round(49.5 - 20 / 1.2), round(44.5 + 10 / 1.2)]) == 2
        assert float(image.sum() * 1.2**2) == pytest.approx(2 * math.pi * 900, rel=1e-3)

    def test_rays_of_a_fan_are_parallel_rays(self) -> None:
        """Bin u at angle b is the parallel ray at b - g, source sin g from the axis; tan g = u/(source + detector)."""
        scan = fan(3)
        gamma = (scan.offsets / (scan.source + scan.detector)).atan()
        for k in range(3):
            for u in (0, 60, 189):
                turned = scan.angles[k] - gamma[u]
                one = Parallel(turned[None], 1, 1.0)
                shift = scan.source * gamma[u].sin()
                moved = HEAD.table.clone()
                moved[:, 3] -= shift * turned.cos()
                moved[:, 4] -= shift * turned.sin()
                torch.testing.assert_close(
                    HEAD.sinogram(scan)[0, 0, k, u], Ellipses(moved).sinogram(one)[0, 0, 0, 0]
                )


class TestFBP:
    @pytest.mark.parametrize(
        ("scan", "level"),
        [
            (parallel(180), 29.0),
            (parallel(270, 1.5 * math.pi), 29.0),
            (parallel(360, TURN), 29.0),
            (fan(360), 29.0),
            (fan(270, 1.5 * math.pi), 29.0),
            (fan(240, math.pi + 0.8), 29.0),
            (replace(fan(240), angles=angles(240, math.pi + 0.8).flip(0)), 29.0),
        ],
        ids=["half", "three quarters", "whole", "fan", "fan three quarters", "short scan", "backwards"],
    )
    def test_the_head_comes_back_from_exact_integrals(self, scan: Scan, level: float) -> None:
        x = HEAD.image((128, 128))
        found = fbp(Projector(scan, (128, 128)), HEAD.sinogram(scan))
        assert psnr(found, x) > level
        disc = Ellipses(torch.tensor([[0.02, 40.0, 40.0, 0.0, 0.0, 0.0]], dtype=torch.float64))
        flat = fbp(Projector(scan, (128, 128)), disc.sinogram(scan), window="hann")[0, 0, 44:84, 44:84]
        torch.testing.assert_close(flat, torch.full_like(flat, 0.02), rtol=0.02, atol=0)

    def test_what_is_not_measured_is_missed(self) -> None:
        """A quarter turn, and 20 views: the level of what a prior must make up."""
        x = HEAD.image((128, 128))
        for scan in (parallel(90, math.pi / 2), parallel(20)):
            assert 10 < psnr(fbp(Projector(scan, (128, 128)), HEAD.sinogram(scan)), x) < 20

    def test_a_truncated_scan_has_no_bright_rim(self) -> None:
        """Root mean square errors within the disc that is seen: 0.015; of the scan that ends with 0 instead, 0.124."""
        scan = parallel(180, bins=75)
        with pytest.warns(UserWarning, match=r"a disc of radius 37.5 mm and the image holds one of 64 mm"):
            projector = Projector(scan, (128, 128))
        x, y = HEAD.image((128, 128)), HEAD.sinogram(scan)
        r = torch.arange(128) - 63.5
        seen = (r[:, None] ** 2 + r**2).sqrt() < 36

        def off(found: Tensor) -> float:
            return float((found - x)[0, 0, seen].square().mean().sqrt())

        wide = Projector(replace(scan, bins=185), (128, 128))
        assert off(fbp(projector, y)) < 0.03
        assert off(fbp(wide, torch.nn.functional.pad(y, (55, 55)))) > 0.1

    def test_hann_is_smoother_than_the_ramp(self) -> None:
        projector = Projector(parallel(180), (128, 128))
        noise = torch.randn(1, 1, 180, 185, generator=torch.Generator().manual_seed(0))
        sharp, smooth = (float(fbp(projector, noise, window=w).std()) for w in ("ram-lak", "hann"))
        assert smooth < 0.5 * sharp


class TestDose:
    def test_units(self) -> None:
        hu = torch.tensor([-1100.0, -1000.0, 0.0, 1000.0])
        torch.testing.assert_close(to_attenuation(hu, water=0.02), torch.tensor([0.0, 0.0, 0.02, 0.04]))
        torch.testing.assert_close(to_hu(to_attenuation(hu[1:])), hu[1:])

    def test_noise_has_the_stated_deviation_and_its_own_seed(self) -> None:
        clean = torch.full((2, 1, 100, 400), 2.0, dtype=torch.float64)
        noisy, deviation = scan_noise(clean, photons=1e5, electronic=30.0, seeds=[3, 4])
        counts = 1e5 * math.exp(-2)
        expected = math.sqrt(counts + 900) / counts
        error = noisy - clean
        count = error.numel()
        assert abs(float(error.mean())) < 5 * expected / math.sqrt(count) + expected**2  # the log's bias
        assert float(error.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * count) + 0.01)
        assert float(deviation.mean()) == pytest.approx(expected, rel=0.01)
        again, _ = scan_noise(clean[1:], photons=1e5, electronic=30.0, seeds=[4])
        assert torch.equal(again, noisy[1:])

    def test_nothing_comes_through_metal(self) -> None:
        noisy, deviation = scan_noise(torch.full((1, 1, 4, 4), 40.0), photons=1e4, seeds=[0])
        assert bool(torch.isfinite(noisy).all())
        assert bool(torch.isfinite(deviation).all())
        assert float(noisy.max()) <= math.log(1e4) + 1e-5


class TestBadInput:
    def test_scans(self) -> None:
        for wrong in (torch.tensor([0.0, float("nan")]), torch.zeros(0), torch.zeros(2, 2)):
            with pytest.raises(ValueError, match="angles of a scan must be finite"):
                Parallel(wrong, 10, 1.0)
        with pytest.raises(ValueError, match=r"not 0 of 1.0 mm"):
            Parallel(torch.zeros(1), 0, 1.0)
        with pytest.raises(ValueError, match="source > 0"):
            Fan(torch.zeros(1), 10, 1.0, source=-1.0)

    def test_projectors(self) -> None:
        with pytest.raises(ValueError, match="lies inside the image"):
            Projector(fan(3), (400, 400))
        with pytest.raises(ValueError, match="pixels of positive size"):
            Projector(parallel(3), (10, 10), 0.0)
        with pytest.raises(ValueError, match="fewer views, bins or pixels"):
            Projector(parallel(8000, bins=2000), (512, 512))
        projector = Projector(parallel(3, bins=20), (16, 16))
        with pytest.raises(ValueError, match=r"are \('batch', 1, 16, 16\), not \(1, 1, 16, 15\)"):
            projector.A(torch.zeros(1, 1, 16, 15))
        for wrong in ((1, 1, 4, 20), (1, 1, 3, 21), (3, 20)):
            with pytest.raises(ValueError, match="the scan has 3 angles of 20 bins"):
                projector.A_adjoint(torch.zeros(wrong))
            with pytest.raises(ValueError, match="the scan has 3 angles of 20 bins"):
                fbp(projector, torch.zeros(wrong))

    def test_backprojection(self) -> None:
        uneven = Parallel(torch.tensor([0.0, 0.1, 0.3]), 20, 1.0)
        for scan in (uneven, replace(uneven, angles=torch.zeros(3))):
            with pytest.raises(ValueError, match="equally spaced"):
                fbp(Projector(scan, (16, 16)), torch.zeros(1, 1, 3, 20))
        with pytest.raises(ValueError, match=r"no window 'han' \(did you mean 'hann'\?\)"):
            fbp(Projector(parallel(3, bins=20), (16, 16)), torch.zeros(1, 1, 3, 20), window="han")  # pyright: ignore

    def test_dose(self) -> None:
        with pytest.raises(ValueError, match="photons must be above 0"):
            scan_noise(torch.zeros(1, 2), photons=0, seeds=[0])
        with pytest.raises(ValueError, match="2 seeds for a batch of 1"):
            scan_noise(torch.zeros(1, 2), photons=10, seeds=[0, 1])


def test_a_view_of_a_truncated_scan_does_not_warn_again() -> None:
    with pytest.warns(UserWarning, match="sees a disc"):
        projector = Projector(parallel(3, bins=10), (16, 16))
    with warnings.catch_warnings(action="error"):
        projector.view(0)
