"""Multi-coil MRI: its operators, whitening, masks, and coils estimated against coils known."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from diffkit.core.inverse.operator import check_adjoint, spectral
from diffkit.core.inverse.projection import dds
from diffkit.core.noise import Seeds
from diffkit.medical.coils import birdcage, espirit, loops, smooth_phase
from diffkit.medical.masks import equispaced_lines, poisson_disc, random_lines
from diffkit.medical.mri import (
    Cartesian,
    Sense,
    TwoChannel,
    fft,
    ifft,
    noise_covariance,
    rss,
    to_channels,
    to_complex,
    whiten,
)
from diffkit.medical.phantom import Ellipses

SHAPE = (48, 64)
MASK = random_lines(64, 4, 10)


def random(*shape: int, seed: int = 0) -> Tensor:
    """Keyed complex normal values, both parts of unit variance."""
    return Seeds([seed + i for i in range(shape[0])])(0, torch.empty(shape, dtype=torch.complex128))


def head(shape: tuple[int, int] = (96, 96)) -> Tensor:
    """A head with a smooth phase, complex ``[1, 1, height, width]``."""
    magnitude = Ellipses.shepp_logan(0.45 * min(shape)).image(shape)
    return torch.polar(magnitude, smooth_phase(shape).double())


class TestOperators:
    def test_fourier_is_the_centred_sum(self) -> None:
        """F x (k) = sum_r exp(-2 pi i k r/n) x(r)/sqrt(n), with 0 at half the size, even or odd."""
        x = random(1, 1, 5, 6)
        waves = [
            torch.exp(-2j * math.pi / n * torch.outer(r, r)) / math.sqrt(n)
            for n in (5, 6)
            for r in [torch.arange(n, dtype=torch.float64) - n // 2]
        ]
        torch.testing.assert_close(fft(x), waves[0] @ x @ waves[1])
        torch.testing.assert_close(ifft(fft(x)), x)

    @pytest.mark.parametrize("maps", [random(4, *SHAPE), random(2, 4, *SHAPE)], ids=["shared", "batch"])
    def test_adjoints(self, maps: Tensor) -> None:
        operator, x = Sense(Cartesian(MASK), maps), torch.empty(2, 1, *SHAPE, dtype=torch.complex128)
        assert check_adjoint(operator, x) < 1e-14
        assert check_adjoint(operator, x.to(torch.complex64)) < 1e-6
        assert check_adjoint(TwoChannel(operator), torch.empty(2, 2, *SHAPE, dtype=torch.float64)) < 1e-14
        assert check_adjoint(Cartesian(MASK), x) < 1e-14

    def test_two_channels_are_the_complex_image(self) -> None:
        x = random(2, 1, *SHAPE)
        assert torch.equal(to_complex(to_channels(x)), x)
        operator = Sense(Cartesian(MASK), random(4, *SHAPE))
        torch.testing.assert_close(TwoChannel(operator).A(to_channels(x)), operator.A(x))

    def test_guides_take_both_kinds_of_state(self) -> None:
        """DDS corrects a prediction by the same amount, whether the image is complex or two channels."""
        operator, x = Sense(Cartesian(MASK), random(4, *SHAPE)), random(2, 1, *SHAPE)
        y, t = operator.A(random(2, 1, *SHAPE, seed=7)), torch.tensor(0.5)
        corrected = dds(operator, y, gamma=2.0)(lambda x, t: x)(x, t)
        channels = dds(TwoChannel(operator), y, gamma=2.0)(lambda x, t: x)(to_channels(x), t)
        torch.testing.assert_close(channels, to_channels(corrected))
        assert float((y - operator.A(corrected)).norm()) < 0.5 * float((y - operator.A(x)).norm())

    def test_decomposition_of_one_coil(self) -> None:
        operator, x = Cartesian(MASK), random(2, 1, *SHAPE)
        torch.testing.assert_close(spectral(operator, torch.square, x), operator.A_adjoint(operator.A(x)))
        torch.testing.assert_close(spectral(operator, torch.ones_like, x), x)

    def test_measured_noise_has_its_level_where_it_is_measured(self) -> None:
        operator, x = (
            Sense(Cartesian(MASK), birdcage(4, SHAPE)),
            torch.zeros(2, 1, *SHAPE, dtype=torch.complex64),
        )
        y = operator.measure(x, noise=0.3, seeds=[1, 2])
        measured = MASK[0]
        assert not y[..., ~measured].any()
        values = torch.view_as_real(y[..., measured])
        assert float(values.std()) == pytest.approx(0.3, rel=5 / math.sqrt(2 * values.numel()))
        assert torch.equal(y[1:], operator.measure(x[1:], noise=0.3, seeds=[2]))

    def test_unit_maps_make_the_root_sum_of_squares_the_image(self) -> None:
        x = random(1, 1, *SHAPE)
        for maps in (birdcage(5, SHAPE, dtype=torch.complex128), loops(5, SHAPE, dtype=torch.complex128)):
            torch.testing.assert_close(rss(maps * x), x.abs())

    def test_bad_input(self) -> None:
        maps, sampling = random(4, *SHAPE), Cartesian(MASK)
        operator = Sense(sampling, maps)
        with pytest.raises(ValueError, match=r"maps must be complex"):
            Sense(sampling, maps.real)
        with pytest.raises(ValueError, match=r"maps must be complex.*\(48, 64\)"):
            Sense(sampling, maps[0])
        with pytest.raises(ValueError, match="maps must be complex, finite"):
            Sense(sampling, maps * float("nan"))
        with pytest.raises(ValueError, match=r"mask \(1, 64\) does not fit maps of \(48, 32\)"):
            Sense(sampling, maps[..., :32])
        with pytest.raises(ValueError, match=r"is \('batch', 1, 48, 64\), not \(1, 1, 48, 32\)"):
            operator.A(random(1, 1, 48, 32))
        with pytest.raises(ValueError, match="two real channels"):
            TwoChannel(operator).A(torch.zeros(1, 1, *SHAPE))
        with pytest.raises(ValueError, match="complex tensor, or use TwoChannel"):
            sampling.A(torch.zeros(1, 1, *SHAPE))


class TestWhitening:
    ROOT = random(4, 4, seed=3)

    def correlated(self, samples: int) -> Tensor:
        return self.ROOT @ random(4, samples, seed=20) / math.sqrt(2)

    def test_noise_becomes_independent_of_unit_parts(self) -> None:
        n = 40_000
        covariance = noise_covariance(self.correlated(n))
        torch.testing.assert_close(covariance, self.ROOT @ self.ROOT.mH, rtol=0, atol=0.3)  # entries up to 16
        white = whiten(self.correlated(n)[:, None], covariance)[:, 0]
        torch.testing.assert_close(white @ white.mH / n, 2 * torch.eye(4, dtype=white.dtype))
        assert float(white.real.square().mean()) == pytest.approx(1, abs=5 * math.sqrt(2 / (4 * n)))

    def test_maps_and_k_space_stay_one_problem(self) -> None:
        x, maps = random(1, 1, *SHAPE), random(4, *SHAPE)
        covariance = self.ROOT @ self.ROOT.mH
        y = whiten(Sense(Cartesian(MASK), maps).A(x), covariance)
        torch.testing.assert_close(Sense(Cartesian(MASK), whiten(maps, covariance)).A(x), y)

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match="3 samples of noise cannot"):
            noise_covariance(self.correlated(3))
        with pytest.raises(ValueError, match="there are 5 coils"):
            whiten(random(5, 2, 2), self.ROOT @ self.ROOT.mH)
        for wrong in (-self.ROOT @ self.ROOT.mH, self.ROOT):
            with pytest.raises(ValueError, match="Hermitian and positive definite"):
                whiten(random(4, 2, 2), wrong)


class TestMasks:
    @pytest.mark.parametrize("acceleration", [1, 2.5, 4, 8])
    @pytest.mark.parametrize("width", [64, 99])
    def test_lines_attain_their_acceleration_with_the_centre_in_it(
        self, acceleration: float, width: int
    ) -> None:
        for mask in (random_lines(width, acceleration, 7), equispaced_lines(width, acceleration, 7)):
            assert mask.shape == (1, width)
            assert int(mask.sum()) == round(width / acceleration)
            assert mask[0, width // 2 - 3 : width // 2 + 4].all()

    def test_random_lines_are_of_their_seed_and_spread_evenly(self) -> None:
        assert torch.equal(random_lines(64, 4, 6, seed=1), random_lines(64, 4, 6, seed=1))
        masks = torch.stack([random_lines(64, 4, 6, seed=s)[0] for s in range(400)]).double()
        share = masks.mean(0)[:29]  # outside the centre: 10 of 58
        assert float((share - 10 / 58).abs().max()) < 5 * math.sqrt(10 / 58 * 48 / 58 / 400)

    def test_equispaced_lines_keep_their_distance(self) -> None:
        """22 lines on the 246 places outside the centre, 11.2 apart; two gaps end at the centre."""
        for offset in (0.0, 0.6):
            gaps = equispaced_lines(256, 8, 10, offset=offset)[0].nonzero()[:, 0].diff()
            assert int(((gaps == 11) | (gaps == 12)).sum()) >= 20
            assert int(gaps.max()) == 12

    @pytest.mark.parametrize("acceleration", [4.0, 8.0])
    def test_poisson_disc(self, acceleration: float) -> None:
        """The exact count, a full centre, fewer points outwards, and no clumps: neighbours are rarer than by chance."""
        mask = poisson_disc((96, 80), acceleration, (12, 10), seed=2)
        assert int(mask.sum()) == round(96 * 80 / acceleration)
        assert mask[42:54, 35:45].all()
        rows, columns = torch.meshgrid(torch.arange(96) / 48 - 1, torch.arange(80) / 40 - 1, indexing="ij")
        r = (rows.square() + columns.square()).sqrt()
        density = [
            float(mask[(r > low) & (r <= low + 0.25)].double().mean()) for low in (0.25, 0.5, 0.75, 1.0)
        ]
        assert density == sorted(density, reverse=True)
        outer = (r > 0.75).double() * mask
        touching = float((outer[1:] * outer[:-1]).sum() + (outer[:, 1:] * outer[:, :-1]).sum())
        by_chance = 2 * float(outer.sum()) ** 2 / float((r > 0.75).sum())
        assert touching < 0.1 * by_chance
        assert torch.equal(mask, poisson_disc((96, 80), acceleration, (12, 10), seed=2))

    def test_bad_input(self) -> None:
        for make in (random_lines, equispaced_lines):
            for acceleration in (0.5, -2, float("nan"), float("inf")):
                with pytest.raises(ValueError, match="at least 1"):
                    make(64, acceleration, 4)
            with pytest.raises(ValueError, match="only 8 of 64 are measured, less than the centre's 12"):
                make(64, 8, 12)
            with pytest.raises(ValueError, match="do not fit 64"):
                make(64, 1, 65)
        with pytest.raises(ValueError, match="less than the centre's 400"):
            poisson_disc((64, 64), 20, (20, 20))
        with pytest.raises(ValueError, match=r"in \[0, 1\), not 1"):
            equispaced_lines(64, 4, 4, offset=1)


class TestMaps:
    @pytest.mark.parametrize(
        "mask",
        [
            random_lines(96, 4, 16),
            equispaced_lines(96, 4, 16),
            poisson_disc((96, 96), 4, (16, 16)),
            random_lines(96, 8, 10),
        ],
        ids=["random", "equispaced", "poisson", "ten lines"],
    )
    @pytest.mark.parametrize("coils", [birdcage, loops])
    def test_estimated_maps_are_the_coils_up_to_a_smooth_phase(self, mask: Tensor, coils: Any) -> None:
        """The sine of the angle between both, in the space of coils, at every point of the head: 0.013 to 0.026."""
        x, maps = head(), coils(6, (96, 96), dtype=torch.complex128)
        y = Sense(Cartesian(mask), maps).measure(x, noise=0.002, seeds=[0])
        found = espirit(y)
        along = (found[0].conj() * maps).sum(0)
        inside = x[0, 0].abs() > 0.05
        sine = (1 - along.abs().square()).clamp(min=0).sqrt()[inside]
        assert float(sine.max()) < 0.04
        step = (along[:, 1:] * along[:, :-1].conj()).angle()[inside[:, 1:] & inside[:, :-1]]
        assert float(step.abs().max()) < 0.03  # radians from pixel to pixel, 0.005 to 0.016

    def test_a_map_belongs_to_its_sample_and_ends_with_the_signal(self) -> None:
        maps, mask = birdcage(4, (64, 64)), random_lines(64, 3, 14)
        x = torch.cat([head((64, 64)), 0.3 * head((64, 64)).roll(3, -1)]).to(torch.complex64)
        y = Sense(Cartesian(mask), maps).measure(x, noise=0.001, seeds=[0, 1])
        both = espirit(y)
        assert both.dtype == torch.complex64
        torch.testing.assert_close(both[1:], espirit(y[1:]), rtol=0, atol=1e-4)
        size = rss(both)
        assert set(size.round(decimals=3).unique().tolist()) == {0.0, 1.0}
        assert not size[0, 0, :3, :3].any()

    def test_k_space_without_a_centre(self) -> None:
        y = Sense(Cartesian(random_lines(64, 4, 4)), birdcage(4, (64, 64))).A(
            head((64, 64)).to(torch.complex64)
        )
        with pytest.raises(ValueError, match=r"is 24 x [45], and coil maps need 6 x 6"):
            espirit(y)
        with pytest.raises(ValueError, match="is 0 x 0"):
            espirit(torch.zeros_like(y))
        with pytest.raises(ValueError, match="at least one coil"):
            birdcage(0, (8, 8))
