"""Audio of the data side: whole clips from memory and parts of files as mono at 16 kHz, and their length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import soxr

from data_util.audio_file import AudioFile, DecodeError, require_finite
from data_util.channels import to_mono
from data_util.mp3_frames import looks_like_mp3
from data_util.optional import optional

SAMPLE_RATE = 16_000  # Hz, what every model hears
CLIP_SECONDS = 10.0
CLIP_SAMPLES = int(SAMPLE_RATE * CLIP_SECONDS)

_Bytes = bytes | bytearray | memoryview


def decode(data: _Bytes | np.ndarray, *, max_seconds: float | None = None) -> np.ndarray:
    """Decode an audio file held in memory to mono at 16 kHz.

    Args:
        data: the bytes of a file of any format (or a uint8 array of them).
        max_seconds: decode no more than this from the start; None: everything.

    Returns:
        [N] float32, contiguous, finite.

    Raises:
        DecodeError: no audio file, no samples, or samples that are not finite.
    """
    decoded = decode_channels(data, max_seconds=max_seconds)
    resampled = resample(to_mono(decoded.audio), decoded.sample_rate)
    if len(resampled) == 0:
        raise DecodeError("too short to hold a sample at 16 kHz")
    return resampled


@dataclass(frozen=True)
class Decoded:
    """An audio file as it is: float32 [N, channels], finite; its rate in Hz; what is odd about it, one line each."""

    audio: np.ndarray
    sample_rate: int
    notes: tuple[str, ...] = ()
    cut_off: bool = False


def decode_channels(data: _Bytes | np.ndarray, *, max_seconds: float | None = None) -> Decoded:
    """Decode an audio file held in memory as it is.

    Args:
        data: as in `decode`.
        max_seconds: as in `decode`.

    Raises:
        DecodeError: no audio file, no samples, or samples that are not finite.
    """
    data = data.tobytes() if isinstance(data, np.ndarray) else data
    # A little faster than libsndfile.
    minimp3 = optional("minimp3py") if looks_like_mp3(bytes(data[:4])) else None
    decoded = _read_minimp3(minimp3, data, max_seconds) if minimp3 else _read_file(data, max_seconds)
    if len(decoded.audio) == 0:
        raise DecodeError("no samples")
    return decoded


def read_part(path: Path, start: float = 0.0, seconds: float | None = None, channel: int | None = None) -> np.ndarray:
    """A part of a file as mono samples at 16 kHz, float32; only these samples are read where the format permits it.

    Args:
        path: of any format, rate and number of channels.
        start, seconds: in seconds; None: to the end.
        channel: to take, counted from 0; None: the mean of all.

    Raises:
        DecodeError: the part cannot be read, holds no samples, or samples that are not finite.
    """
    with AudioFile(path) as file:
        audio, rate = file.read(start, seconds), file.sample_rate
    if len(audio) == 0:
        raise DecodeError("no samples")
    return resample(to_mono(audio, channel), rate)


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


def _read_file(data: _Bytes, max_seconds: float | None) -> Decoded:
    with AudioFile(data) as file:
        audio = file.read(0.0, max_seconds)
        return Decoded(audio, file.sample_rate, tuple(file.notes), file.cut_off)


def _read_minimp3(minimp3: ModuleType, data: _Bytes, max_seconds: float | None) -> Decoded:
    try:
        audio, rate = minimp3.read(bytes(data))
    except (RuntimeError, ValueError, MemoryError, OSError) as error:
        raise DecodeError(str(error) or type(error).__name__) from None
    audio = np.asarray(audio, np.float32)
    audio = audio.reshape(len(audio), -1)[: None if max_seconds is None else round(max_seconds * rate)]
    require_finite(audio)
    return Decoded(audio, int(rate))
