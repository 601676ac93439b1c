"""Audio of any format, length, rate and channel count as 16 kHz mono, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, fsencode
from pathlib import Path

import numpy as np

from data_util.audio_file import (
    BLOCK_SECONDS,
    HIGHEST_RATE,
    LOUDEST,
    LOWEST_RATE,
    AudioFile,
    DecodeError,
    full_scale,
    require_file,
    require_finite,
)
from data_util.channels import ChannelMixer
from errors import UserError, reading
from helpers.audio_pipe import PipedAudio

SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Audio:
    """Audio from memory: samples, floats [n] or [n, channels] in [-1, 1], and their rate in Hz (1000 to 1,000,000)."""

    samples: np.ndarray
    sample_rate: int = SAMPLE_RATE
    name: str = "audio"


Source = str | PathLike[str] | Audio | PipedAudio


def read_blocks(
    source: Source, channel: int | None = None, *, notes: list[str] | None = None, strict: bool = False
) -> Iterator[np.ndarray]:
    """Yield the samples of a file, array or pipe, float32 [n] at 16 kHz, in blocks of about 30 s (pipes: as they come).

    Arguments:
        source: a file, `Audio` or `PipedAudio`.
        channel: the channel to take, counted from 0; None mixes all of them.
        notes: gets a line for all that is odd about the source, such as an end that is missing.
        strict: raise UserError where the end of the source is missing.
    Raises:
        UserError: the file is missing, empty, or not audio; the channel does not exist.
    """
    told = [] if notes is None else notes
    mixer = ChannelMixer(channel)
    try:
        rate, blocks = _open(source, told, strict)
        yield from _resample((_mix(block, mixer, channel, source) for block in blocks), rate)
    except DecodeError as error:
        raise UserError(f"{_name(source)} cannot be read as audio: {error}") from None
    if mixer.note:
        told.append(mixer.note)


def _open(source: Source, notes: list[str], strict: bool) -> tuple[int, Iterator[np.ndarray]]:
    """Rate and blocks [n, channels] of a source."""
    if isinstance(source, Audio):
        return source.sample_rate, _array_blocks(source)
    if isinstance(source, PipedAudio):
        return source.sample_rate, _pipe_blocks(source, notes, strict)
    file = _open_file(Path(source))
    return file.sample_rate, _file_blocks(file, source, notes, strict)


def _open_file(path: Path) -> AudioFile:
    """The opened file; UserError when it is missing or a folder, DecodeError when it is not audio."""
    require_file(path)
    with reading(path, "the audio file"), path.open("rb"):
        return AudioFile(path)


def _file_blocks(file: AudioFile, source: Source, notes: list[str], strict: bool) -> Iterator[np.ndarray]:
    n_read = 0
    with file:
        for block in file.blocks():
            n_read += len(block)
            yield block
        notes += file.notes
        if n_read == 0:
            raise DecodeError("it holds no samples")
        if file.cut_off and strict:
            _refuse_cut_off(source, file.notes)


def _pipe_blocks(pipe: PipedAudio, notes: list[str], strict: bool) -> Iterator[np.ndarray]:
    for block in pipe.blocks:
        require_finite(block)
        if full_scale(float(np.abs(block).max(initial=0.0))) != 1.0:
            raise UserError(f"{_name(pipe)} holds floats far outside -1 to 1: divide them by their full scale")
        yield block
    notes += pipe.notes
    if pipe.notes and strict:
        _refuse_cut_off(pipe, pipe.notes)


def _refuse_cut_off(source: Source, notes: Sequence[str]) -> None:
    raise UserError(f"{_name(source)}: {notes[-1]}; omit --strict to process what is there")


def count_channels(path: str | PathLike[str]) -> int:
    """Channels of an audio file; raises UserError like `read_blocks`."""
    try:
        with _open_file(Path(path)) as file:
            return file.channels
    except DecodeError as error:
        raise UserError(f"{_name(path)} cannot be read as audio: {error}") from None


def _mix(block: np.ndarray, mixer: ChannelMixer, channel: int | None, source: Source) -> np.ndarray:
    if channel is not None and channel >= block.shape[1]:
        raise UserError(f"{_name(source)} has {block.shape[1]} channels: expected one from 0 to {block.shape[1] - 1}")
    return mixer(block)


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
    if not LOWEST_RATE <= audio.sample_rate <= HIGHEST_RATE:
        limits = f"from {LOWEST_RATE} to {HIGHEST_RATE} Hz"
        raise UserError(f"'{audio.name}': expected a sample rate {limits}, got {audio.sample_rate} Hz")
    size = int(BLOCK_SECONDS * audio.sample_rate)
    with np.errstate(over="ignore"):
        samples = samples.reshape(len(samples), -1).astype(np.float32, copy=False)
    require_finite(samples)
    peak = float(np.abs(samples).max())
    if peak > LOUDEST:
        raise UserError(f"'{audio.name}': expected floats in [-1, 1], got a peak of {peak:,.0f}: divide by full scale")
    return (samples[i : i + size] for i in range(0, len(samples), size))
