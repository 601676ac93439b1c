"""Audio of the data side: decoding from memory, mono, 16 kHz, fixed length."""

from __future__ import annotations

import importlib
import io
from functools import cache
from types import ModuleType

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000  # Hz, what every model hears
CLIP_SECONDS = 10.0
CLIP_SAMPLES = int(SAMPLE_RATE * CLIP_SECONDS)

_Bytes = bytes | bytearray | memoryview


class DecodeError(ValueError):
    """A clip that holds no usable audio, with the reason."""


def decode(data: _Bytes | np.ndarray, *, max_seconds: float | None = None) -> np.ndarray:
    """Decode an audio file held in memory to mono at 16 kHz.

    Args:
        data: the bytes of a file of any format that libsndfile reads (or a uint8 array of them).
        max_seconds: decode no more than this from the start; None: everything.

    Returns:
        [N] float32, contiguous, finite.

    Raises:
        DecodeError: no audio file, no samples, or samples that are not finite.
    """
    audio, rate = decode_channels(data, max_seconds=max_seconds)
    mono = audio[:, 0] if audio.shape[1] == 1 else audio.mean(axis=1)
    resampled = resample(mono, rate)
    if len(resampled) == 0:
        raise DecodeError("too short to hold a sample at 16 kHz")
    return resampled


def decode_channels(data: _Bytes | np.ndarray, *, max_seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Decode an audio file held in memory as it is.

    Args:
        data: as in `decode`.
        max_seconds: as in `decode`.

    Returns:
        ([N, channels] float32, finite; sample rate in Hz).

    Raises:
        DecodeError: no audio file, no samples, or samples that are not finite.
    """
    data = data.tobytes() if isinstance(data, np.ndarray) else data
    minimp3 = _minimp3() if _looks_like_mp3(data) else None
    try:
        audio, rate = _read_minimp3(minimp3, data) if minimp3 else _read_soundfile(data, max_seconds)
    except (soundfile.SoundFileError, RuntimeError, ValueError, MemoryError, OSError) as error:
        # libsndfile's own words; the message around them names an object in memory.
        raise DecodeError(getattr(error, "error_string", "") or str(error) or type(error).__name__) from None
    if max_seconds is not None:
        audio = audio[: round(max_seconds * rate)]
    if len(audio) == 0:
        raise DecodeError("no samples")
    # One NaN or infinity makes the energy so; testing every sample takes ten times as long.
    flat = audio.ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        energy = np.dot(flat, flat)
    if not np.isfinite(energy):
        raise DecodeError("samples that are not finite")
    return audio, rate


def resample(audio: np.ndarray, rate: int, target_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Resample [N] or [N, channels] float32 from `rate` to `target_rate` Hz (soxr, high quality)."""
    return np.ascontiguousarray(audio) if rate == target_rate else soxr.resample(audio, rate, target_rate)


def fix_length(audio: np.ndarray, n_samples: int = CLIP_SAMPLES) -> np.ndarray:
    """Cut the end off, or append zeros, so that [N] float32 becomes [n_samples]; the start stays in place."""
    if len(audio) == n_samples and audio.dtype == np.float32:
        return audio
    fixed = np.zeros(n_samples, np.float32)
    kept = min(len(audio), n_samples)
    fixed[:kept] = audio[:kept]
    return fixed


def _read_soundfile(data: _Bytes, max_seconds: float | None) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        frames = -1 if max_seconds is None else round(max_seconds * file.samplerate)
        return file.read(frames, dtype="float32", always_2d=True), file.samplerate


def _looks_like_mp3(data: _Bytes) -> bool:
    head = bytes(data[:3])
    return head == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)


@cache
def _minimp3() -> ModuleType | None:
    """minimp3py where it is installed: a little faster than libsndfile."""
    try:
        return importlib.import_module("minimp3py")
    except ImportError:
        return None


def _read_minimp3(minimp3: ModuleType, data: _Bytes) -> tuple[np.ndarray, int]:
    audio, rate = minimp3.read(bytes(data))
    audio = np.asarray(audio, np.float32)
    return audio.reshape(len(audio), -1), int(rate)
