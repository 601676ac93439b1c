"""Audio of any format, length, rate and channel count as 16 kHz mono, block by block."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike, fsencode
from pathlib import Path

import numpy as np

from errors import UserError, reading
from helpers.audio_pipe import PipedAudio

SAMPLE_RATE = 16_000
BLOCK_SECONDS = 30.0
# A file may hold this much less than its header says: MP3 headers count the encoder's padding.
MISSING_SECONDS = 0.25


@dataclass(frozen=True)
class Audio:
    """Audio from memory: samples, floats [n] or [n, channels] in [-1, 1], and their rate in Hz (1000 to 1,000,000)."""

    samples: np.ndarray
    sample_rate: int = SAMPLE_RATE
    name: str = "audio"


Source = str | PathLike[str] | Audio | PipedAudio


def read_blocks(source: Source, channel: int | None = None) -> Iterator[np.ndarray]:
    """Yield the samples of a file, array or pipe, float32 [n] at 16 kHz, in blocks of about 30 s (pipes: as they come).

    Arguments:
        source: a file that libsndfile reads, `Audio` or `PipedAudio`.
        channel: the channel to take, counted from 0; None mixes all of them.
    Raises:
        UserError: the file is missing, empty, cut off, or no audio; the channel does not exist.
    """
    if isinstance(source, Audio):
        rate, blocks = source.sample_rate, _array_blocks(source)
    elif isinstance(source, PipedAudio):
        rate, blocks = source.sample_rate, source.blocks
    else:
        rate, blocks = _open(Path(source))
    yield from _resample((_mix(block, channel, source) for block in blocks), rate)


def count_channels(path: str | PathLike[str]) -> int:
    """Channels of an audio file; raises UserError like `read_blocks`."""
    with _open_file(Path(path)) as file:
        return file.channels


def _mix(block: np.ndarray, channel: int | None, source: Source) -> np.ndarray:
    if not np.isfinite(block).all():
        raise UserError(f"{_name(source)} holds samples that are not numbers (NaN or infinite): export it again")
    if channel is None:
        return block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]
    if channel >= block.shape[1]:
        raise UserError(f"{_name(source)} has {block.shape[1]} channels: there is no channel {channel}")
    return block[:, channel]


def _name(source: Source) -> str:
    return f"'{source_name(source)}'"


def source_name(source: Source) -> str:
    """Name of a file, or of audio that is none; a file's bytes that are no UTF-8 are replaced."""
    return source.name if isinstance(source, (Audio, PipedAudio)) else fsencode(source).decode(errors="replace")


def _resample(blocks: Iterator[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """Resample a stream of blocks to 16 kHz; the filter's delay is taken out, so times stay true."""
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block))
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _array_blocks(audio: Audio) -> Iterator[np.ndarray]:
    samples = np.asarray(audio.samples)
    if samples.ndim not in (1, 2) or samples.size == 0 or samples.shape[-1] > samples.shape[0]:
        raise UserError(f"'{audio.name}': expected samples [n] or [n, channels], got shape {samples.shape}")
    if samples.dtype.kind != "f":
        raise UserError(f"'{audio.name}': expected floats in [-1, 1], got {samples.dtype}: divide by its largest value")
    if not 1000 <= audio.sample_rate <= 1_000_000:
        raise UserError(f"'{audio.name}': its sample rate of {audio.sample_rate} Hz must be between 1000 and 1,000,000")
    size = int(BLOCK_SECONDS * audio.sample_rate)
    samples = samples.reshape(len(samples), -1).astype(np.float32, copy=False)
    return (samples[i : i + size] for i in range(0, len(samples), size))


def _open(path: Path) -> tuple[int, Iterator[np.ndarray]]:
    file = _open_file(path)
    return file.samplerate, _file_blocks(path, file)


def _open_file(path: Path):  # type: ignore[no-untyped-def]
    """The opened file; UserError when it is missing, empty, cut off or no audio."""
    import soundfile

    with reading(path, "the audio file"), path.open("rb"):
        size = path.stat().st_size
    if size == 0:
        raise UserError(f"audio file '{path}' is empty (0 bytes)")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise UserError(f"'{path}' cannot be read as audio: {_reason(error)}") from None
    except UnicodeEncodeError:
        raise UserError(f"the name of {_name(path)} is not {sys.getfilesystemencoding().upper()}: rename it") from None
    if file.frames == 0:
        file.close()
        raise UserError(f"audio file '{path}' holds no samples")
    _refuse_cut_riff(path)
    return file


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".").replace("\n", " ")


def _file_blocks(path: Path, file) -> Iterator[np.ndarray]:  # type: ignore[no-untyped-def]
    import soundfile

    size, n_read = int(BLOCK_SECONDS * file.samplerate), 0
    with file:
        while True:
            try:
                block = file.read(size, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                at = n_read / file.samplerate
                raise UserError(f"'{path}' is damaged after {at:.2f} s: {_reason(error)}") from None
            if len(block) == 0:
                break
            n_read += len(block)
            yield block
        announced, got = file.frames / file.samplerate, n_read / file.samplerate
        # libsndfile gives streams of unknown length a huge number of frames.
        if file.frames < 2**60 and got < announced - MISSING_SECONDS:
            raise UserError(f"'{path}' is cut off: it announces {announced:.2f} s and holds {got:.2f} s")


def _refuse_cut_riff(path: Path) -> None:
    """Raise UserError for a WAV file whose data chunk is longer than the file: libsndfile reads it silently."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"RIFF" or file.read(8)[4:] != b"WAVE":
            return
        while len(header := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", header)
            if name == b"data":
                # 0 and numbers near 2^31 or 2^32 stand for "unknown": written by programs that stream to a pipe.
                if 0 < length < 0x7FFF0000 and file.tell() + length > size:
                    share = (size - file.tell()) / length
                    raise UserError(f"'{path}' is cut off: it holds {share:.0%} of the samples that it announces")
                return
            file.seek(length + length % 2, 1)
