"""Audio from a pipe, which has no length and cannot be rewound: WAV or raw samples."""

from __future__ import annotations

import functools
import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import BinaryIO

import numpy as np

from data_util.audio_file import HIGHEST_RATE, LOWEST_RATE, MISSING_SECONDS
from errors import UserError

MOST_CHANNELS = 256
PIECE_BYTES = 16_384  # asked for at once; a pipe gives what it has
PIPE_BYTES = 1 << 16  # what a pipe of the system holds
AHEAD_BYTES = 64 << 20  # 5.8 minutes at 48 kHz, 2 channels of 16 bits

_FORMATS = {  # name: (bytes per sample, how they are read)
    "u8": (1, lambda data: (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128),
    "s16": (2, lambda data: np.frombuffer(data, "<i2").astype(np.float32) / 2**15),
    "s24": (3, lambda data: _from_24_bit(data)),
    "s32": (4, lambda data: (np.frombuffer(data, "<i4") / 2**31).astype(np.float32)),
    "f32": (4, lambda data: np.frombuffer(data, "<f4").astype(np.float32)),
    "f64": (8, lambda data: np.frombuffer(data, "<f8").astype(np.float32)),
}
_SYNONYMS = {f"{name}le": name for name in _FORMATS if name != "u8"}  # FFmpeg's names
_WAV_FORMATS = {(1, 8): "u8", (1, 16): "s16", (1, 24): "s24", (1, 32): "s32", (3, 32): "f32", (3, 64): "f64"}
_WAV_STARTS = (b"RIFF", b"RF64")
_SHORTEST_HEADER = 36  # bytes of a WAV file up to the end of the shortest fmt chunk
_EXTENSIBLE = 0xFFFE
_UNKNOWN_LENGTH = 0x7FFF0000  # sizes from here on, and 0, are written by programs that do not know it yet
_UNKNOWN_LONG = 1 << 60


def _from_24_bit(data: bytes) -> np.ndarray:
    wide = np.zeros((len(data) // 3, 4), np.uint8)
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return (wide.view("<i4")[:, 0] / 2**31).astype(np.float32)


@dataclass(frozen=True)
class RawFormat:
    """How raw samples are laid out: Hz, interleaved channels, and a name of `u8 s16 s24 s32 f32 f64`, little endian.

    FFmpeg's names of the same (`s16le`) are understood, too.
    """

    sample_rate: int
    channels: int = 1
    encoding: str = "s16"

    @classmethod
    def parse(cls, text: str) -> RawFormat:
        """From `RATE[:CHANNELS[:ENCODING]]`, e.g. 16000:1:s16."""
        parts = text.split(":")
        try:
            rate, channels = int(parts[0]), int(parts[1]) if len(parts) > 1 else 1
        except ValueError:
            rate = channels = 0
        encoding = parts[2] if len(parts) > 2 else "s16"
        encoding = _SYNONYMS.get(encoding, encoding)
        if (
            len(parts) > 3
            or not LOWEST_RATE <= rate <= HIGHEST_RATE
            or not 1 <= channels <= MOST_CHANNELS
            or encoding not in _FORMATS
        ):
            raise UserError(
                f"--raw is {text}: must be RATE:CHANNELS:ENCODING, e.g. 16000:1:s16 ({', '.join(_FORMATS)})"
            )
        return cls(rate, channels, encoding)

    def __str__(self) -> str:
        return f"{self.sample_rate}:{self.channels}:{self.encoding}"


@dataclass(frozen=True)
class PipedAudio:
    """Audio that can be read once: its rate in Hz, blocks [n, channels] as they arrive, and the bytes of a second."""

    sample_rate: int
    blocks: Iterator[np.ndarray]
    name: str = "stdin"
    notes: list[str] = field(default_factory=list)  # what is odd about it, once the blocks have come to their end
    bytes_per_second: int = 0


class ReadAhead:
    """A pipe that a thread empties as data comes, so that a microphone is not held up while the reader is busy.

    A pipe of the system holds less than a second of audio. When it is full, the program that records has to wait and
    loses samples, and from then on all times are too early. What nobody has read yet is kept here, up to a limit.

    Arguments:
        file: the pipe; nothing has been read from it.
        most: bytes that are kept at most; then the writer waits.
    """

    def __init__(self, file: BinaryIO, most: int = AHEAD_BYTES) -> None:
        self._pieces: deque[bytes] = deque()
        self._kept, self._most = 0, most
        self._ended = False
        self._error: OSError | None = None
        self._first: tuple[datetime, int] | None = None
        self._changed = threading.Condition()
        # A daemon: it may wait for ever for a pipe that says nothing
        threading.Thread(target=self._fill, args=(_reader(file),), name="read ahead", daemon=True).start()

    def read(self, n: int) -> bytes:
        """At least one byte and at most n, as they are there; none at the end. OSError: the pipe is broken."""
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._ended)
            if not self._pieces:
                if self._error is not None:
                    raise self._error
                return b""
            piece = self._pieces.popleft()
            if len(piece) > n:
                self._pieces.appendleft(piece[n:])
                piece = piece[:n]
            self._kept -= len(piece)
            self._changed.notify_all()
            return piece

    def began(self, bytes_per_second: int) -> datetime:
        """The moment (UTC) at which the first samples of a live source were heard.

        What is in the pipe when it is looked at for the first time has been recorded before.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._first is not None or self._ended)
            arrived, n_bytes = self._first or (datetime.now(timezone.utc), 0)
        return arrived - timedelta(seconds=n_bytes / bytes_per_second)

    def _fill(self, read: Callable[[], bytes]) -> None:
        error: OSError | None = None
        try:
            while piece := read():
                with self._changed:
                    if self._first is None:
                        self._first = datetime.now(timezone.utc), len(piece)
                    self._pieces.append(piece)
                    self._kept += len(piece)
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._kept < self._most)
        except OSError as caught:
            error = caught
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify_all()


def _reader(file: BinaryIO) -> Callable[[], bytes]:
    """Reads what is there, past Python's buffer: a thread that waits would hold its lock when the program ends."""
    try:
        number = file.fileno()
    except (OSError, AttributeError):  # it only looks like a file
        return functools.partial(getattr(file, "read1", file.read), PIECE_BYTES)
    return functools.partial(os.read, number, PIPE_BYTES)


def open_pipe(file: BinaryIO | ReadAhead, raw: RawFormat | None = None) -> PipedAudio:
    """Start reading a pipe: WAV with its header, or raw samples in the given format.

    Raises:
        UserError: the pipe is empty, holds neither, or its header says something else than `raw`.
    """
    length, start = None, b""
    if raw is None:
        raw, length = _read_wav_header(file)
    else:
        start = _read_raw_start(file, raw)
    notes: list[str] = []
    blocks = _blocks(file, raw, length, notes, start)
    return PipedAudio(raw.sample_rate, blocks, notes=notes, bytes_per_second=raw.sample_rate * _frame_bytes(raw))


def _read_raw_start(file: BinaryIO | ReadAhead, raw: RawFormat) -> bytes:
    """The first bytes of raw samples; UserError where they are a sound WAV header that tells another layout."""
    start = _read(file, _SHORTEST_HEADER)
    if start[:4] not in _WAV_STARTS or start[8:16] != b"WAVEfmt " or len(start) < _SHORTEST_HEADER:
        return start
    try:
        layout = _parse_fmt(start[20:])
    except UserError:  # a damaged header, for which there is --raw
        return start
    if layout != raw:
        raise UserError(f"--raw is {raw}, but standard input is WAV with {layout}: leave out --raw")
    return start


def _read_wav_header(file: BinaryIO | ReadAhead) -> tuple[RawFormat, int | None]:
    """Format of the samples, and their bytes where the header says."""
    start = _read(file, 12)
    if not start:
        raise UserError("standard input is empty: pipe audio into it")
    if len(start) < 12 or start[:4] not in _WAV_STARTS or start[8:] != b"WAVE":
        raise UserError(
            "standard input holds no WAV header: pipe WAV, or name the layout with --raw RATE:CHANNELS:ENCODING"
        )
    layout, long_length, header = None, 0, _read(file, 8)
    while len(header) == 8:
        name, length = struct.unpack("<4sI", header)
        if name == b"data":
            if layout is None:
                break
            known = length if length < _UNKNOWN_LENGTH else long_length
            return layout, known if 0 < known < _UNKNOWN_LONG else None
        body = _read(file, length)
        if name == b"fmt " and len(body) >= 16:
            layout = _parse_fmt(body)
        elif name == b"ds64" and len(body) >= 16:
            long_length = struct.unpack("<Q", body[8:16])[0]
        header = _next_header(file, length % 2 == 1)
    raise UserError("standard input starts like WAV, but its header is damaged")


def _next_header(file: BinaryIO | ReadAhead, is_odd: bool) -> bytes:
    """The header of the chunk after one of odd length: programs pad it with a zero byte, as they must, or forget to."""
    header = _read(file, 8)
    return header[1:] + _read(file, 1) if is_odd and header[:1] == b"\0" else header


def _parse_fmt(body: bytes) -> RawFormat:
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
    if tag == _EXTENSIBLE and len(body) >= 26:
        tag = struct.unpack("<H", body[24:26])[0]
    encoding = _WAV_FORMATS.get((tag, bits))
    if encoding is None:
        raise UserError(f"standard input is WAV of a kind that cannot be piped (format {tag}, {bits} bits): use PCM")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE or not 1 <= channels <= MOST_CHANNELS:
        raise UserError(
            f"standard input is WAV with {channels} channels at {rate} Hz: expected 1 to {MOST_CHANNELS} channels at "
            f"{LOWEST_RATE} to {HIGHEST_RATE} Hz; its header is damaged, so name the layout with --raw"
        )
    return RawFormat(rate, channels, encoding)


def _read(file: BinaryIO | ReadAhead, n: int) -> bytes:
    """Exactly n bytes, or what there is until the end."""
    parts: list[bytes] = []
    while n > 0 and (part := file.read(n)):
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def _frame_bytes(layout: RawFormat) -> int:
    return _FORMATS[layout.encoding][0] * layout.channels


def _blocks(
    file: BinaryIO | ReadAhead, layout: RawFormat, length: int | None, notes: list[str], start: bytes = b""
) -> Iterator[np.ndarray]:
    """Samples [n, channels] as they come; `start` has been read before."""
    decode, frame_bytes = _FORMATS[layout.encoding][1], _frame_bytes(layout)
    read = getattr(file, "read1", file.read)  # what is there, without waiting for a full buffer
    kept, left = b"", length
    while left is None or left > 0:
        piece = start or read(PIECE_BYTES if left is None else min(PIECE_BYTES, left))
        start = b""
        if not piece:
            if length is not None and left and left > MISSING_SECONDS * layout.sample_rate * frame_bytes:
                notes.append(f"it is cut off: it holds {1 - left / length:.0%} of the samples that it announces")
            break
        left = None if left is None else left - len(piece)
        kept += piece
        whole = len(kept) - len(kept) % frame_bytes
        if whole:
            yield decode(kept[:whole]).reshape(-1, layout.channels)
            kept = kept[whole:]
