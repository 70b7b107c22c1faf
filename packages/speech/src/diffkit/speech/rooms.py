"""Simulated rooms: impulse responses of random shoebox rooms by the image source method.

Source: Allen and Berkley, "Image method for efficiently simulating small-room acoustics", JASA 1979, as
implemented by pyroomacoustics; sizes and distances as in SGMSE's WSJ0-REVERB. Every response comes in two
parts on one time axis, `full` and `direct` (what the same source and microphone give without walls), both
scaled so that the direct path has unit energy and cut so that it arrives at sample :data:`ONSET`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffkit.core.files import whole

# Half the length of pyroomacoustics' fractional-delay filter: the direct path arrives at this sample.
ONSET = 40
SPEED_OF_SOUND = 343.0  # m/s, at 20 degrees Celsius
_MAX_ORDER = 90

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Room:
    """A shoebox room in metres with a source and a microphone; `rt60` in seconds is nominal (Sabine)."""

    size: tuple[float, float, float]
    source: tuple[float, float, float]
    microphone: tuple[float, float, float]
    rt60: float

    @property
    def distance(self) -> float:
        return float(np.linalg.norm(np.subtract(self.source, self.microphone)))


def draw_room(
    rng: np.random.Generator,
    rt60: tuple[float, float] = (0.15, 1.3),
    distance: tuple[float, float] = (0.3, 5.0),
) -> Room:
    """A random room of 5-15 x 5-15 x 2-6 m; both ends are 0.5 m or more from the walls, `distance` m apart.

    Rooms that Sabine's formula cannot give the asked `rt60` (total absorption beyond 1) are drawn again.
    """
    low, high = rt60
    nearest, farthest = distance
    while True:
        size = rng.uniform((5, 5, 2), (15, 15, 6))
        time = float(rng.uniform(low, high))
        source, microphone = rng.uniform(0.5, size - 0.5, (2, 3))
        if (
            sabine_absorption(size, time) < 0.95
            and nearest <= np.linalg.norm(source - microphone) <= farthest
        ):
            return Room(tuple(size.tolist()), tuple(source.tolist()), tuple(microphone.tolist()), time)


def sabine_absorption(size: NDArray[np.float64], rt60: float) -> float:
    """Energy absorption of all walls that gives `rt60`: 24 ln(10) V / (c S RT60)."""
    x, y, z = size
    return float(24 * np.log(10) / SPEED_OF_SOUND * (x * y * z) / (2 * (x * y + y * z + z * x)) / rt60)


def impulse_response(room: Room, rate: int, max_order: int | None = None) -> tuple[Array, Array]:
    """`(full, direct)` responses [samples] of `room` at `rate` Hz, with the direct path at `ONSET`.

    `max_order` limits the reflections (default: as many as arrive within the nominal RT60, at most 90).
    Needs pyroomacoustics. The full response ends where it has decayed by 60 dB.
    """
    import pyroomacoustics

    absorption = sabine_absorption(np.asarray(room.size), room.rt60)
    if max_order is None:
        max_order = min(_MAX_ORDER, int(np.ceil(SPEED_OF_SOUND * room.rt60 / min(room.size))))
    full, direct = (_simulate(pyroomacoustics, room, rate, absorption, order) for order in (max_order, 0))
    start = int(np.argmax(np.abs(direct))) - ONSET
    direct = direct[max(start, 0) :]
    full = full[max(start, 0) :]
    gain = 1 / np.sqrt(np.sum(direct**2))
    decay = decay_curve(full)
    length = max(int(np.searchsorted(-decay, 60.0)), len(direct))
    return (gain * full[:length]).astype(np.float32), (gain * direct).astype(np.float32)


@dataclass(frozen=True)
class RoomBank:
    """Many impulse responses at one rate, sorted by `rt60`, the measured one, in seconds."""

    full: tuple[Array, ...]
    direct: tuple[Array, ...]
    rt60: Array
    nominal: Array

    def __len__(self) -> int:
        return len(self.full)


def make_bank(
    n: int,
    rate: int,
    seed: int = 0,
    rt60: tuple[float, float] = (0.15, 1.8),
    folder: str | Path | None = None,
    progress: bool = False,
) -> RoomBank:
    """`n` random rooms whose measured RT60 lies in `rt60` seconds; a pure function of its arguments.

    With a `folder`, the bank is kept there and read back at the next call with the same arguments.
    300 rooms of the default range take about a minute on one core.
    """
    path = Path(folder, f"rooms-{n}-{rate}-{seed}-{rt60[0]:g}-{rt60[1]:g}.npz") if folder else None
    if path and path.is_file():
        return _load(path)
    found = sorted(_measured_rooms(n, rate, seed, rt60, progress), key=lambda entry: entry[:2])
    bank = RoomBank(
        full=tuple(entry[2] for entry in found),
        direct=tuple(entry[3] for entry in found),
        rt60=np.array([entry[0] for entry in found], np.float32),
        nominal=np.array([entry[1] for entry in found], np.float32),
    )
    if path:
        _save(path, bank)
    return bank


def _measured_rooms(
    n: int, rate: int, seed: int, rt60: tuple[float, float], progress: bool
) -> Iterator[tuple[float, float, Array, Array]]:
    from rich.console import Console
    from rich.progress import track

    rng = np.random.default_rng(seed)
    low, high = rt60
    for _ in track(range(n), "rooms", console=Console(stderr=True), disable=not progress):
        while True:
            # Image-source rooms ring about 1.3 times as long as Sabine says: few draws near `high` would do.
            room = draw_room(rng, (low, max(low, 0.8 * high)))
            full, direct = impulse_response(room, rate)
            measured = measured_rt60(full, rate)
            if low <= measured <= high:
                yield measured, room.rt60, full, direct
                break


def _save(path: Path, bank: RoomBank) -> None:
    with whole(path) as beside:
        np.savez(
            beside,
            full=np.concatenate(bank.full),
            full_lengths=[len(response) for response in bank.full],
            direct=np.concatenate(bank.direct),
            direct_lengths=[len(response) for response in bank.direct],
            rt60=bank.rt60,
            nominal=bank.nominal,
        )


def _load(path: Path) -> RoomBank:
    with np.load(path) as stored:
        full, direct = (
            tuple(np.split(stored[name], np.cumsum(stored[f"{name}_lengths"])[:-1]))
            for name in ("full", "direct")
        )
        return RoomBank(full, direct, stored["rt60"], stored["nominal"])


def decay_curve(response: NDArray[np.floating]) -> NDArray[np.float64]:
    """Schroeder's backward-integrated energy decay [samples] in dB, 0 at the start (JASA 1965)."""
    energy = np.cumsum(np.square(response[::-1], dtype=np.float64))[::-1]
    return 10 * np.log10(np.maximum(energy / energy[0], 1e-12))


def measured_rt60(response: NDArray[np.floating], rate: int) -> float:
    """RT60 in seconds by a line through the decay from -5 to -35 dB (T30, ISO 3382)."""
    decay = decay_curve(response)
    first, last = np.searchsorted(-decay, (5.0, 35.0))
    if last - first < 2:
        return 0.0
    slope, _ = np.polyfit(np.arange(first, last) / rate, decay[first:last], 1)
    return float(-60 / slope)


def _simulate(pyroomacoustics, room: Room, rate: int, absorption: float, order: int) -> NDArray[np.float64]:
    box = pyroomacoustics.ShoeBox(
        room.size, fs=rate, materials=pyroomacoustics.Material(absorption), max_order=order
    )
    box.add_source(room.source)
    box.add_microphone(room.microphone)
    box.compute_rir()
    return np.asarray(box.rir[0][0], dtype=np.float64)
