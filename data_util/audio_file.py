"""The one reader of audio files: sample rate, channels, true length and blocks of samples.

What is in a file counts, not what its header says (`data_util.containers`, `data_util.mp3_frames`): a file is decoded
to its end; one whose end is missing is read as far as it goes, and `notes` says so. Float samples far outside -1 to 1
are scaled by the power of two that their program forgot. libsndfile reads most formats, PyAV the others.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from data_util.audio_folders import FFMPEG_ENDINGS
from data_util.byte_view import Part, PartView
from data_util.containers import WHOLE, Layout, announced_rate, examine
from data_util.mp3_frames import Mp3Segment, looks_like_mp3, scan
from data_util.pyav_audio import INSTALL, AvFile, pyav
from signals import deferred

BLOCK_SECONDS = 30.0
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000  # Hz; others are damaged headers
MISSING_SECONDS = 0.25  # a file may hold this much less than it announces: headers count padding, or themselves
LOUDEST = 8.0  # peak up to which float samples are taken to be in [-1, 1] and too loud
_SCALES = (2.0**15, 2.0**23, 2.0**31)  # full scale of integers that were stored as floats
_SCALE_MARGIN = 1.01
_SMALL = 1024  # samples per read where damage is near
_FRAMES_UNKNOWN = 2**60  # libsndfile gives streams of unknown length a huge number of frames
BROKEN = (soundfile.SoundFileError, OSError, RuntimeError, ValueError, TypeError, MemoryError)

Source = Path | bytes | bytearray | memoryview


class DecodeError(ValueError):
    """A file or clip that holds no usable audio, with the reason."""


@dataclass(frozen=True)
class Length:
    """The true length of a file: samples per channel at its rate, and what is odd about it."""

    samples: int
    sample_rate: int
    channels: int
    notes: tuple[str, ...] = ()
    cut_off: bool = False

    @property
    def seconds(self) -> float:
        """In seconds."""
        return self.samples / self.sample_rate


_peaks: dict[tuple[str, int, int], float] = {}


class AudioFile:
    """An open audio file; a context manager.

    Attributes:
        sample_rate: Hz.
        channels: how many.
        notes: what is odd about it, one line each; complete when the blocks have come to their end.
        cut_off: whether its end is missing, as far as it is known.
    """

    def __init__(self, source: Source) -> None:
        """Open a file, or the bytes of one.

        Raises:
            DecodeError: it is missing, empty, or no audio.
        """
        self.notes: list[str] = []
        self.cut_off = False
        self._path = source if isinstance(source, Path) else None
        self._ending = source.suffix.lower() if isinstance(source, Path) else ""
        self._file = _open_bytes(source)
        self._scale = 0.0  # 0: not known yet
        try:
            self._size = self._file.seek(0, os.SEEK_END)
            if self._size == 0:
                raise DecodeError("it is empty (0 bytes)")
            self._file.seek(0)
            head = self._file.read(16)
            self._decoder: _Sndfile | AvFile = self._open_decoder(head)
        except BaseException:
            self._file.close()
            raise
        self.sample_rate, self.channels = self._decoder.sample_rate, self._decoder.channels
        if not LOWEST_RATE <= self.sample_rate <= HIGHEST_RATE:
            self.close()
            raise DecodeError(f"its sample rate is {self.sample_rate} Hz: expected {LOWEST_RATE} to {HIGHEST_RATE} Hz")

    def _open_decoder(self, head: bytes) -> _Sndfile | AvFile:
        segments = scan(self._file, self._size) if self._ending == ".mp3" or looks_like_mp3(head) else []
        layout = WHOLE if segments else examine(self._file, self._size)
        try:
            return _Sndfile(self._file, self._size, layout, segments)
        except BROKEN as error:
            reason = _reason(error)
        rate = announced_rate(self._file, self._size)
        if rate is not None and not LOWEST_RATE <= rate <= HIGHEST_RATE:  # libsndfile counts to 2^31 - 1, from 1
            limits = f"expected {LOWEST_RATE} to {HIGHEST_RATE} Hz"
            raise DecodeError(f"its header says {rate} Hz: {limits}; its header is damaged")
        if pyav() is None:
            if self._ending in FFMPEG_ENDINGS:
                raise DecodeError(f"{self._ending} files are read through PyAV, which is missing: {INSTALL}")
            raise DecodeError(reason)
        try:
            self._file.seek(0)
            return AvFile(str(self._path) if self._path is not None else self._file)
        except ValueError as error:
            raise DecodeError(str(error) if self._ending in FFMPEG_ENDINGS else reason) from None

    def blocks(self, start: float = 0.0, seconds: float | None = None) -> Iterator[np.ndarray]:
        """The samples from a time on, in blocks of at most 30 s.

        Args:
            start: s.
            seconds: how much to read at most; None: to the end.

        Yields:
            float32 [n, channels], finite.

        Raises:
            DecodeError: samples that are not finite, or absurdly large; the first block is damaged.
        """
        first = round(start * self.sample_rate)
        left = None if seconds is None else round(seconds * self.sample_rate)
        n_read = first
        for block in self._decoder_blocks(first, left):
            yield self._checked(block)
            n_read += len(block)
        if left is None or n_read < first + left:
            self._note_end(n_read)

    def _decoder_blocks(self, first: int, count: int | None) -> Iterator[np.ndarray]:
        if isinstance(self._decoder, _Sndfile):
            yield from self._decoder.blocks(first, count)
            return
        at, stop = 0, None if count is None else first + count
        for block in _in_blocks(self._decoder.blocks(), round(BLOCK_SECONDS * self.sample_rate)):
            wanted = block[max(0, first - at) : None if stop is None else max(0, stop - at)]
            if len(wanted):
                yield wanted
            at += len(block)
            if stop is not None and at >= stop:
                return

    def read(self, start: float = 0.0, seconds: float | None = None) -> np.ndarray:
        """All of it, or a part: float32 [n, channels]; `start`, `seconds` and errors as in `blocks`."""
        parts = list(self.blocks(start, seconds))
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [np.zeros((0, self.channels), np.float32)])

    @property
    def wav_subtype(self) -> str:
        """The subtype (libsndfile's name) that a WAV file with these samples has: the same, or 16 bit."""
        subtype = self._decoder.subtype if isinstance(self._decoder, _Sndfile) else ""
        return subtype if self._scale in (0.0, 1.0) and soundfile.check_format("WAV", subtype) else "PCM_16"

    def length(self) -> Length:
        """The true length; decodes the file only where no header can be trusted.

        Raises:
            DecodeError: nothing in it can be decoded.
        """
        n = self._decoder.trusted_frames() if isinstance(self._decoder, _Sndfile) else None
        if n is None:
            n = sum(len(block) for block in self._decoder_blocks(0, None))
        self._note_end(n)
        self._find_scale()
        if n == 0:
            raise DecodeError("it holds no samples")
        return Length(n, self.sample_rate, self.channels, tuple(self.notes), self.cut_off)

    def _note_end(self, n_read: int) -> None:
        """Note what is missing once it is known how many samples there are."""
        announced = self._decoder.announced
        got, rate = n_read / self.sample_rate, self.sample_rate
        missing = announced is not None and got < announced / rate - MISSING_SECONDS
        if self.cut_off or not (missing or self._decoder.cut_off):
            return
        self.cut_off = True
        known = announced is not None and missing
        says = f"it announces {announced / rate:.2f} s and holds" if known else "its end is missing after"  # type: ignore[operator]
        self.notes.append(f"it is cut off: {says} {got:.2f} s")

    def _checked(self, block: np.ndarray) -> np.ndarray:
        """The block in [-1, 1] (or somewhat above); DecodeError for samples that are not finite or absurdly large."""
        require_finite(block)
        if self._scale == 0.0:
            self._find_scale()
        return block if self._scale == 1.0 else block * np.float32(1 / self._scale)

    def _find_scale(self) -> None:
        """Decide what the samples of the whole file are divided by; only floats can be far outside -1 to 1."""
        self._scale = 1.0
        if not isinstance(self._decoder, _Sndfile) or not self._decoder.is_float:
            return
        peak = self._known_peak()
        self._scale = full_scale(peak)
        if self._scale != 1.0:
            self.notes.append(f"its samples reach {peak:,.0f} where 1 is full scale: divided by {self._scale:,.0f}")

    def _known_peak(self) -> float:
        """The peak of a file of floats; kept, so that reading many parts of a file does not look for it each time."""
        assert isinstance(self._decoder, _Sndfile)
        if self._path is None:
            return self._decoder.peak()
        stat = os.fstat(self._file.fileno())
        key = (str(self._path), stat.st_size, stat.st_mtime_ns)
        if key not in _peaks:
            _peaks[key] = self._decoder.peak()
        return _peaks[key]

    def close(self) -> None:
        """Close the file."""
        self._decoder.close()
        self._file.close()

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def require_finite(block: np.ndarray) -> None:
    """Raise DecodeError for samples [n, channels] that are not finite."""
    # One NaN or infinity makes the energy so; testing every sample takes ten times as long.
    flat = block.ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        energy = np.dot(flat, flat)
    if not np.isfinite(energy) and not np.isfinite(block).all():
        raise DecodeError("it holds samples that are not finite (NaN or infinite): export it again")


def full_scale(peak: float) -> float:
    """What float samples with this peak are to be divided by: 1, or the full scale of the integers that they were.

    Raises:
        DecodeError: no integer format reaches so far.
    """
    if peak <= LOUDEST:
        return 1.0
    for scale in _SCALES:
        if peak <= scale * _SCALE_MARGIN:
            return scale
    raise DecodeError(f"its samples reach {peak:.1e} where 1 is full scale: export it again")


def measure(path: Path) -> Length:
    """The true length of a file; raises DecodeError."""
    with AudioFile(path) as file:
        return file.length()


def require_file(path: Path) -> None:
    """Raise DecodeError for a named pipe, socket or device: opening it may wait for ever, and it cannot be rewound."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return  # dealt with where it is opened
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode):
        raise DecodeError("it is a pipe or device, not a file: pipe its audio into standard input, named -")


def _open_bytes(source: Source) -> BinaryIO:
    if not isinstance(source, Path):
        return io.BytesIO(source)
    require_file(source)
    try:
        return source.open("rb")
    except OSError as error:
        raise DecodeError(error.strerror or str(error)) from None
    except ValueError:
        raise DecodeError(f"its name is not {sys.getfilesystemencoding().upper()}: rename it") from None


def _reason(error: BaseException) -> str:
    """libsndfile's own words, in one line; the message around them names an object in memory."""
    words = str(getattr(error, "error_string", "") or error or type(error).__name__)
    if "SF_INFO struct" in words:  # how it says that a rate or number of channels is 0 or negative
        return "its header is damaged: it gives no sample rate or number of channels that can be"
    return " ".join(words.split()).rstrip(".")


def _in_blocks(pieces: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Join small pieces to blocks of about `size` samples."""
    kept: list[np.ndarray] = []
    for piece in pieces:
        kept.append(piece)
        if sum(map(len, kept)) >= size:
            yield np.concatenate(kept)
            kept = []
    if kept:
        yield np.concatenate(kept)


class _Sequential(soundfile.SoundFile):
    """A file that is read in a row: without the seek to where it is anyway, which fails at ends of unknown place."""

    def __init__(self, file: str | BinaryIO) -> None:
        with deferred():
            super().__init__(file)

    def seekable(self) -> bool:
        return False

    def read(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        with deferred():
            return super().read(*args, **kwargs)


class _Sndfile:
    """One or several parts of a file, each through libsndfile, as one row of samples.

    Attributes: as those of `AvFile`; `is_float` tells whether samples are stored as floats.
    """

    def __init__(self, file: BinaryIO, size: int, layout: Layout, segments: list[Mp3Segment]) -> None:
        self._file, self._size = file, size
        self._parts = [segment.part() for segment in segments] or [layout.part or Part(0, size)]
        self._opened: _Sequential | None = self._open(self._parts[0])  # opening some formats takes long
        self.sample_rate, self.channels = self._opened.samplerate, self._opened.channels
        self.subtype = self._opened.subtype
        self.is_float = self.subtype in ("FLOAT", "DOUBLE")
        self.cut_off = layout.present < 1.0 and layout.part is None
        self.announced = self._announced(self._opened.frames, layout, segments)

    def _announced(self, frames: int, layout: Layout, segments: list[Mp3Segment]) -> int | None:
        """Samples that the header promises; None where it does not say."""
        if segments:
            last = segments[-1]
            if last.announced is None or last.announced <= last.frames:
                return None
            before = sum(s.frames * s.samples_per_frame * self.sample_rate // s.rate for s in segments[:-1])
            return before + last.announced * last.samples_per_frame
        if frames >= _FRAMES_UNKNOWN:
            return None
        return round(frames / layout.present) if layout.part is not None else frames

    def _open(self, part: Part) -> _Sequential:
        self._file.seek(0)
        whole = part == Part(0, self._size)
        return _Sequential(self._file if whole else io.BufferedReader(PartView(self._file, part)))

    def _take(self, part: Part) -> _Sequential:
        """The part from its start: as it was opened at first, or opened anew."""
        if part is self._parts[0] and self._opened is not None:
            opened, self._opened = self._opened, None
            return opened
        return self._open(part)

    def trusted_frames(self) -> int | None:
        """Samples of the file where its (mended) header tells them and the last one can be read; else None."""
        if len(self._parts) > 1:
            return None
        with self._open(self._parts[0]) as file, suppress(*BROKEN):
            if 0 < file.frames < _FRAMES_UNKNOWN:
                file.seek(file.frames - 1)
                return file.frames if len(file.read(1, dtype="float32")) == 1 else None
        return None

    def blocks(self, first: int, count: int | None) -> Iterator[np.ndarray]:
        """Samples from `first` on, at most `count`, in blocks; stops early where the file is damaged."""
        skip, left = first, count
        for part in self._parts:
            try:
                file = self._take(part)
            except BROKEN:  # what looks like another file within the file need not be one
                self.cut_off = True
                continue
            with file:
                at = self._seek(file, skip) if len(self._parts) == 1 else 0
                skip -= at
                size = self._block_size(file) if left is None else min(self._block_size(file), skip + left)
                for block in self._like_the_first(file, self._raw_blocks(part, file, size, at)):
                    wanted = block[skip : None if left is None else skip + left]
                    skip = max(0, skip - len(block))
                    if len(wanted):
                        yield wanted
                    if left is not None:
                        left -= len(wanted)
                        if left <= 0:
                            return

    def _block_size(self, file: _Sequential) -> int:
        return max(1, round(BLOCK_SECONDS * file.samplerate))

    def _seek(self, file: _Sequential, frame: int) -> int:
        """Go to a frame, or the end; returns where the file is now: at 0 where its format cannot be sought in."""
        try:
            return file.seek(min(frame, file.frames)) if frame else 0
        except BROKEN:
            return 0

    def _raw_blocks(self, part: Part, file: _Sequential, size: int, done: int = 0) -> Iterator[np.ndarray]:
        while True:
            try:
                block = file.read(size, dtype="float32", always_2d=True)
            except BROKEN:
                self.cut_off = True
                yield from self._up_to_the_damage(part, done)
                return
            if len(block) == 0:
                return
            done += len(block)
            yield block

    def _up_to_the_damage(self, part: Part, done: int) -> Iterator[np.ndarray]:
        """What a failed read has lost: the samples between the last good block and the damage, in small pieces."""
        at = 0
        with self._open(part) as file, suppress(*BROKEN):
            while len(piece := file.read(_SMALL, dtype="float32", always_2d=True)):
                if at + len(piece) > done:
                    yield piece[max(0, done - at) :]
                at += len(piece)

    def _like_the_first(self, file: _Sequential, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Blocks of a later part in the rate and channels of the first."""
        n = self.channels
        if file.samplerate == self.sample_rate and file.channels == n:
            yield from blocks
            return
        stream = soxr.ResampleStream(file.samplerate, self.sample_rate, n, dtype="float32")
        for block in blocks:
            same = block if block.shape[1] == n else np.repeat(block.mean(axis=1, keepdims=True), n, axis=1)
            yield stream.resample_chunk(np.ascontiguousarray(same)).reshape(-1, n)
        yield stream.resample_chunk(np.zeros((0, n), np.float32), last=True).reshape(-1, n)

    def peak(self) -> float:
        """The largest absolute sample of the whole file; infinite or NaN samples are left to the reader."""
        largest = 0.0
        for part in self._parts:
            with self._open(part) as file:
                for block in self._raw_blocks(part, file, self._block_size(file)):
                    block_peak = float(np.abs(block).max(initial=0.0))
                    largest = max(largest, block_peak) if np.isfinite(block_peak) else largest
        return largest

    def close(self) -> None:
        """Close the part that has been opened and not read."""
        if self._opened is not None:
            self._opened.close()
