"""MP3 as a row of frames: where they lie, and how many there really are.

Decoders take the length from the header of the first file in a stream, or guess it from the first frame where there is
no header; both are wrong for joined files, variable bit rates and streams. Counting the frames is exact and fast.

Source: ISO/IEC 11172-3, 13818-3 (frame header); the Xing/Info header is a convention of encoders.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from data_util.byte_view import Part

_KBPS = {  # MPEG 1 or not -> kbit/s by index
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_LAYER_3 = 1
_READ = 1 << 20
_HEADER_KBPS_INDEX = {True: 9, False: 8}  # a frame of 128 or 64 kbit/s has room for a header
_TOLERANCE = 2  # frames that a header may miscount: some encoders count the header itself, some do not
_SEARCH = 1 << 16  # bytes of junk before the first frame of what may be an MP3


class _Frame(NamedTuple):
    """One frame header: bytes, sample rate in Hz, channels, whether it is MPEG 1."""

    size: int
    rate: int
    channels: int
    mpeg1: bool


@dataclass
class Mp3Segment:
    """Frames that one decoder can read in a row.

    Attributes:
        begin, end: bytes of the file.
        first: the header (4 bytes) of its first frame.
        frames: how many there are, without the header frame.
        announced: how many its own Xing/Info header promises; None without one.
    """

    begin: int
    end: int
    first: bytes
    frames: int = 0
    announced: int | None = None

    @property
    def samples_per_frame(self) -> int:
        """Samples that a frame stands for."""
        return 1152 if _parse(self.first).mpeg1 else 576  # type: ignore[union-attr]

    @property
    def rate(self) -> int:
        """Sample rate, Hz."""
        return _parse(self.first).rate  # type: ignore[union-attr]

    @property
    def is_complete(self) -> bool:
        """Whether its own header tells the true number of frames."""
        return self.announced is not None and abs(self.announced - self.frames) <= _TOLERANCE

    def part(self) -> Part:
        """The bytes for a decoder, with a header that tells the true number of frames where its own does not."""
        if self.is_complete:
            return Part(self.begin, self.end)
        return Part(self.begin, self.end, _info_frame(self.first, self.frames, self.end - self.begin))


def scan(file: BinaryIO, size: int) -> list[Mp3Segment]:
    """The segments of an MP3 file of `size` bytes: one, or one for each file that was joined; empty: no MP3."""
    reader = _Bytes(file, size)
    if (whole := _complete(reader)) is not None:
        return [whole]
    segments: list[Mp3Segment] = []
    at, last_format = 0, None
    while (at := _skip_tags(reader, at)) + 4 <= size:
        frame = _parse(reader.at(at, 4))
        if frame is None or (last_format is None and not _confirmed(reader, at, frame)):
            last_format = None
            found = _resync(reader, at + 1, size if segments else min(size, at + _SEARCH))
            if found is None:
                break
            at = found
            frame = _parse(reader.at(at, 4))
            assert frame is not None
        header = reader.at(at, min(frame.size, 200))
        announced, is_info = _read_info(header, frame)
        if is_info or not segments or (frame.rate, frame.channels) != last_format:
            if not segments or is_info or (frame.rate, frame.channels) != _format_of(segments[-1]):
                segments.append(Mp3Segment(at, at, header[:4], announced=announced))
            last_format = (frame.rate, frame.channels)
        segments[-1].frames += not is_info
        at = min(at + frame.size, size)
        segments[-1].end = at
    return [segment for segment in segments if segment.frames > 0]


def _complete(reader: _Bytes) -> Mp3Segment | None:
    """The only segment of a file whose header promises just the bytes that are there: nothing needs to be counted."""
    at = _skip_tags(reader, 0)
    data = reader.at(at, 200)
    frame = _parse(data)
    if frame is None or not _read_info(data, frame)[1]:
        return None
    info = 4 + _side_info(frame)
    magic, flags, frames, n_bytes = struct.unpack(">4sIII", data[info : info + 16].ljust(16, b"\0"))
    if magic == b"VBRI" or flags & 3 != 3 or reader.size - at - n_bytes not in (0, 128):
        return None
    return Mp3Segment(at, at + n_bytes, data[:4], frames=frames, announced=frames)


def looks_like_mp3(head: bytes) -> bool:
    """Whether the first bytes are those of a tag or of a frame of layer 3."""
    return head[:3] == b"ID3" or (len(head) >= 4 and _parse(head[:4]) is not None)


def _format_of(segment: Mp3Segment) -> tuple[int, int]:
    frame = _parse(segment.first)
    assert frame is not None
    return frame.rate, frame.channels


class _Bytes:
    """Random access to a file in large blocks."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.size = file, size
        self._start, self._block = 0, b""

    def at(self, position: int, n: int) -> bytes:
        """Up to n bytes from a position on."""
        if not self._start <= position <= position + n <= self._start + len(self._block):
            self._file.seek(position)
            self._start, self._block = position, self._file.read(max(_READ, n))
        offset = position - self._start
        return self._block[offset : offset + n]


def _parse(header: bytes) -> _Frame | None:
    """The frame that 4 bytes begin; None where they begin none of layer 3."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = (header[1] >> 3) & 3, (header[1] >> 1) & 3
    bits, rate = header[2] >> 4, (header[2] >> 2) & 3
    if version == 1 or layer != _LAYER_3 or bits in (0, 15) or rate == 3:
        return None
    mpeg1, hertz = version == 3, _RATES[version][rate]
    size = (144_000 if mpeg1 else 72_000) * _KBPS[mpeg1][bits] // hertz + ((header[2] >> 1) & 1)
    return _Frame(size, hertz, 1 if header[3] >> 6 == 3 else 2, mpeg1)


def _confirmed(reader: _Bytes, at: int, frame: _Frame) -> bool:
    """Whether another frame of this kind follows, or the file ends."""
    following = _parse(reader.at(at + frame.size, 4))
    if following is None:
        return at + frame.size >= reader.size or reader.at(at + frame.size, 3) in (b"TAG", b"ID3", b"APE")
    return (following.rate, following.mpeg1) == (frame.rate, frame.mpeg1)


def _resync(reader: _Bytes, at: int, end: int) -> int | None:
    """The first confirmed frame or tag from a position on."""
    while at < end:
        block = reader.at(at, min(_READ, end - at))
        if not block:
            return None
        offset = block.find(b"\xff")
        if offset < 0:
            at += len(block)
            continue
        at += offset
        frame = _parse(reader.at(at, 4))
        if frame is not None and _confirmed(reader, at, frame):
            return at
        at += 1
    return None


def _skip_tags(reader: _Bytes, at: int) -> int:
    """The position behind ID3 and APE tags."""
    while True:
        head = reader.at(at, 32)
        if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
            at += 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
        elif (head[:3] == b"TAG" and reader.size - at >= 128 and _parse(reader.at(at + 128, 4))) or (
            head[:3] == b"TAG" and reader.size - at == 128
        ):
            at += 128
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            at += struct.unpack("<I", head[12:16])[0] + (32 if struct.unpack("<I", head[20:24])[0] >> 29 & 1 else 0)
        else:
            return at


def _side_info(frame: _Frame) -> int:
    return (32 if frame.channels == 2 else 17) if frame.mpeg1 else (17 if frame.channels == 2 else 9)


def _read_info(data: bytes, frame: _Frame) -> tuple[int | None, bool]:
    """(frames that a Xing/Info header announces, whether this frame is such a header in place of audio)."""
    at = 4 + _side_info(frame)
    if data[at : at + 4] in (b"Xing", b"Info"):
        flags, frames = struct.unpack(">II", data[at + 4 : at + 12].ljust(8, b"\0"))
        return (frames if flags & 1 else None), True
    return None, data[36:40] == b"VBRI"


def _info_frame(first: bytes, frames: int, n_bytes: int) -> bytes:
    """A header frame for a stream that begins with the frame header `first`."""
    frame = _parse(first)
    assert frame is not None
    padding_off = (first[2] & 0x0C) | _HEADER_KBPS_INDEX[frame.mpeg1] << 4
    header = bytes([0xFF, first[1] | 1, padding_off, first[3]])
    size = _parse(header).size  # type: ignore[union-attr]
    body = header + bytes(_side_info(frame)) + b"Info" + struct.pack(">III", 3, frames, n_bytes + size)
    return body.ljust(size, b"\0")
