import math
from pathlib import Path

import numpy as np
import pytest

from diffkit.speech import rooms

RATE = 16000
# 6 x 5 x 3 m; the nearest wall of both ends is the floor, 1.5 m below.
BOX = rooms.Room((6.0, 5.0, 3.0), (2.0, 2.5, 1.5), (4.0, 2.5, 1.5), 0.4)


def test_measured_rt60_of_an_exponential_decay_is_its_rt60() -> None:
    rng = np.random.default_rng(0)
    time = np.arange(2 * RATE) / RATE
    for rt60 in (0.2, 0.5, 1.0):
        response = rng.standard_normal(len(time)) * 10 ** (-3 * time / rt60)
        assert rooms.measured_rt60(response, RATE) == pytest.approx(rt60, rel=0.03)


def test_sabine_absorption_agrees_with_the_formula() -> None:
    volume, surface, rt60 = 6 * 5 * 3, 2 * (30 + 18 + 15), 0.4
    expected = 0.1611 * volume / (surface * rt60)
    assert rooms.sabine_absorption(np.array(BOX.size), rt60) == pytest.approx(expected, rel=2e-3)


def test_the_direct_path_is_aligned_has_unit_energy_and_begins_the_full_response() -> None:
    full, direct = rooms.impulse_response(BOX, RATE)
    assert np.argmax(np.abs(direct)) == rooms.ONSET
    assert np.sum(direct**2) == pytest.approx(1, rel=1e-4)
    # The first reflection, off floor and ceiling, travels hypot(2, 3) m; its delay filter starts before.
    reflection = int((math.hypot(2, 3) - 2) / rooms.SPEED_OF_SOUND * RATE)
    # The step from sample to sample, because the simulator's zero-phase 10 Hz high-pass adds a slow ramp.
    assert np.abs(np.diff(full[:reflection] - direct[:reflection])).max() < 1e-3
    assert np.sum(full**2) > 1.1  # and there are reflections


def test_reflections_arrive_where_geometry_says() -> None:
    full, direct = rooms.impulse_response(BOX, RATE, max_order=1)
    reflected = full.copy()
    reflected[: len(direct)] -= direct[: len(full)]
    first = rooms.ONSET + round((math.hypot(2, 3) - 2) / rooms.SPEED_OF_SOUND * RATE)
    assert abs(int(np.argmax(np.abs(reflected))) - first) <= 1


def test_drawn_rooms_are_in_range_and_repeatable() -> None:
    drawn = [rooms.draw_room(np.random.default_rng(seed), (0.3, 0.6), (1.0, 2.0)) for seed in range(50)]
    for room in drawn:
        assert all(
            low <= side <= high
            for side, (low, high) in zip(room.size, ((5, 15), (5, 15), (2, 6)), strict=True)
        )
        for end in (room.source, room.microphone):
            assert all(0.5 <= place <= side - 0.5 for place, side in zip(end, room.size, strict=True))
        assert 0.3 <= room.rt60 <= 0.6
        assert 1.0 <= room.distance <= 2.0
    assert drawn[7] == rooms.draw_room(np.random.default_rng(7), (0.3, 0.6), (1.0, 2.0))
    assert drawn[7] != drawn[8]


def test_a_bank_is_in_range_sorted_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = rooms.make_bank(6, RATE, seed=3, rt60=(0.2, 0.4), folder=tmp_path)
    assert len(bank) == 6
    assert (np.diff(bank.rt60) >= 0).all()
    assert bank.rt60[0] >= 0.2
    assert bank.rt60[-1] <= 0.4
    monkeypatch.setattr(rooms, "impulse_response", None)  # simulating again would fail
    again = rooms.make_bank(6, RATE, seed=3, rt60=(0.2, 0.4), folder=tmp_path)
    for kept, read in zip(bank.full + bank.direct, again.full + again.direct, strict=True):
        assert np.array_equal(kept, read)
    assert np.array_equal(bank.rt60, again.rt60)
    assert np.array_equal(bank.nominal, again.nominal)


def test_a_bank_is_a_function_of_its_seed() -> None:
    first, same, other = (rooms.make_bank(2, RATE, seed=seed, rt60=(0.2, 0.3)) for seed in (0, 0, 1))
    assert np.array_equal(first.full[0], same.full[0])
    assert not np.array_equal(first.rt60, other.rt60)
