"""What the headers of audio files promise, and what is there: the header's length is an estimate.

Recorders write 0 or a huge number before they know the length, lose power before they correct it, forget the padding
of a chunk, or count the header as audio. `examine` finds where the audio of WAV, RF64, W64, AIFF, AU and CAF lies and
gives a header that says so; of formats whose decoders cope by themselves it only tells whether the end is missing.

Sources: Microsoft/IBM RIFF 1.0, EBU Tech 3306 (RF64), Sony Wave64, AIFF-C (Apple 1991), AU (Sun), CAF (Apple),
RFC 3533 (Ogg), NIST SPHERE.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from data_util.byte_view import Part

_HEAD = 64
_UNKNOWN = 0x7FFF0000  # 32-bit sizes from here on, and 0, are written by programs that do not know the length yet
_UNKNOWN_64 = 1 << 60
_LONGEST_RIFF = 0xFFFFFF00
_RF64_GUID_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of Wave64 chunk names
_RIFF_GUID = bytes.fromhex("726966662e91cf11a5d628db04c10000")


@dataclass(frozen=True)
class Layout:
    """Where the audio of a file lies.

    Attributes:
        part: the file with a true header; None: the file as it is.
        present: share of the announced audio that is there, 0 to 1; 1 where nothing is announced.
    """

    part: Part | None = None
    present: float = 1.0


class _Chunk(NamedTuple):
    """A chunk: its name, where its body begins, the size that its header says."""

    name: bytes
    body: int
    size: int


WHOLE = Layout()


def examine(file: BinaryIO, size: int) -> Layout:
    """The layout of an audio file of `size` bytes; the file as it is where its format is unknown."""
    head = _at(file, 0, _HEAD)
    for known, look in _FORMATS:
        if known(head):
            return look(file, size)
    return WHOLE


def announced_rate(file: BinaryIO, size: int) -> int | None:
    """The sample rate that the header of a WAV, RF64, Wave64 or AU file says, Hz; None: another format, or no rate."""
    head = _at(file, 0, _HEAD)
    at: int | None = None
    order = ">" if head[:4] in (b"RIFX", b".snd") else "<"
    if head[:4] in (b".snd", b"dns."):
        at = 16
    elif head[:16] == _RIFF_GUID:
        at = next((place + 28 for place, name, _ in _wave64_chunks(file, size) if name[:4] == b"fmt "), None)
    elif head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        at = next((chunk.body + 4 for chunk, _ in _riff_chunks(file, size, order) if chunk.name == b"fmt "), None)
    rate = b"" if at is None else _at(file, at, 4)
    return int(struct.unpack(order + "I", rate)[0]) if len(rate) == 4 else None


def _at(file: BinaryIO, position: int, n: int) -> bytes:
    file.seek(position)
    return file.read(n)


def _layout(file_size: int, begin: int, announced: int, header: Callable[[int], bytes], tail: bool) -> Layout:
    """The layout of audio that begins at a byte and is `announced` bytes long (0 or less: nobody knows).

    `tail`: what follows the announced audio is known to be something else.
    """
    available = file_size - begin
    if 0 < announced <= available and (tail or announced == available):
        return WHOLE
    part = Part(begin, file_size, header(available))
    return Layout(part, min(1.0, available / announced) if announced > 0 else 1.0)


# ---- WAV, RF64 and Wave64 -------------------------------------------------------------------------------------


def _wav(file: BinaryIO, size: int) -> Layout:
    head = _at(file, 0, 12)
    order = ">" if head[:4] == b"RIFX" else "<"
    kept: list[tuple[bytes, bytes]] = []
    long_size, well_formed = 0, True
    for chunk, padded in _riff_chunks(file, size, order):
        well_formed &= padded
        if chunk.name == b"ds64":
            long_size = struct.unpack("<QQ", _at(file, chunk.body, 16).ljust(16, b"\0"))[1]
        elif chunk.name in (b"fmt ", b"fact"):
            kept.append((chunk.name, _at(file, chunk.body, chunk.size)))
        elif chunk.name == b"data":
            announced = _known(chunk.size) or (long_size if long_size < _UNKNOWN_64 else 0)
            end = chunk.body + announced
            tail = well_formed and _another_chunk(file, end, size, order)
            header = _wav_header(kept, order)
            layout = _layout(size, chunk.body, announced, header, tail)
            if layout is WHOLE and not (well_formed and kept):
                return Layout(Part(chunk.body, end, header(announced)))
            return layout
    return WHOLE


def _known(size: int) -> int:
    return size if size < _UNKNOWN else 0


def _riff_chunks(file: BinaryIO, size: int, order: str) -> Iterator[tuple[_Chunk, bool]]:
    """Chunks up to the audio, each with whether the one before it was padded as it must be."""
    at, padded = 12, True
    while at + 8 <= size:
        name, length = struct.unpack(order + "4sI", _at(file, at, 8))
        chunk = _Chunk(name, at + 8, length)
        yield chunk, padded
        end = chunk.body + length
        padded = not (length % 2 and not _is_name(_at(file, end + 1, 4)) and _is_name(_at(file, end, 4)))
        at = end + (length % 2 if padded else 0)


def _is_name(name: bytes) -> bool:
    """Whether four bytes can be the name of a chunk."""
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)


def _another_chunk(file: BinaryIO, end: int, size: int, order: str) -> bool:
    """Whether a chunk that fits into the file begins where the audio is said to end (or the file ends there)."""
    for at in {end, end + end % 2}:
        if at >= size:
            return True
        head = _at(file, at, 8)
        if len(head) == 8 and _is_name(head[:4]) and at + 8 + struct.unpack(order + "I", head[4:])[0] <= size + 1:
            return True
    return False


def _wav_header(kept: list[tuple[bytes, bytes]], order: str) -> Callable[[int], bytes]:
    def pack(name: bytes, size: int) -> bytes:
        return name + struct.pack(order + "I", size)

    def make(n_bytes: int) -> bytes:
        chunks = b"".join(pack(name, len(body)) + body + bytes(len(body) % 2) for name, body in kept)
        whole = n_bytes + len(chunks) + 12
        if whole < _LONGEST_RIFF:
            form = b"RIFX" if order == ">" else b"RIFF"
            return pack(form, whole) + b"WAVE" + chunks + pack(b"data", n_bytes)
        sizes = struct.pack("<IQQQI", 28, whole + 36, n_bytes, 0, 0)
        return b"RF64\xff\xff\xff\xffWAVEds64" + sizes + chunks + b"data\xff\xff\xff\xff"

    return make


def _wave64(file: BinaryIO, size: int) -> Layout:
    kept = b""
    for at, name, length in _wave64_chunks(file, size):
        if name[:4] == b"data":
            announced = length - 24 if 24 < length < _UNKNOWN_64 else 0

            def header(n_bytes: int, kept: bytes = kept, guid: bytes = name) -> bytes:
                whole = _RIFF_GUID + struct.pack("<Q", 40 + len(kept) + 24 + n_bytes) + b"wave" + _RF64_GUID_TAIL
                return whole + kept + guid + struct.pack("<Q", 24 + n_bytes)

            return _layout(size, at + 24, announced, header, tail=True)
        if name[:4] in (b"fmt ", b"fact"):
            kept += _at(file, at, length + -length % 8)
    return WHOLE


def _wave64_chunks(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes, int]]:
    """Place, name (16 bytes) and size with head of each chunk; ends after one that cannot be as long as it says."""
    at = 40
    while at + 24 <= size:
        head = _at(file, at, 24)
        length = struct.unpack("<Q", head[16:])[0]
        fits = 24 <= length <= size - at
        if fits or head[:4] == b"data":
            yield at, head[:16], length
        if not fits:
            return
        at += length + -length % 8


# ---- AIFF, AU, CAF --------------------------------------------------------------------------------------------


def _aiff(file: BinaryIO, size: int) -> Layout:
    kept: dict[bytes, bytes] = {}
    for chunk, _ in _riff_chunks(file, size, ">"):
        if chunk.name in (b"COMM", b"FVER"):
            kept[chunk.name] = _at(file, chunk.body, chunk.size)
        elif chunk.name == b"SSND":
            common = kept.get(b"COMM", b"")
            if len(common) < 18:
                break
            begin = chunk.body + 8 + struct.unpack(">I", _at(file, chunk.body, 4).ljust(4, b"\0"))[0]
            channels, frames, bits = struct.unpack(">HIH", common[:8])
            width = channels * ((bits + 7) // 8)
            if width == 0:
                break
            announced = max(0, _known(chunk.size) - (begin - chunk.body))
            is_pcm = common[18:22] in (b"", b"NONE", b"sowt", b"twos", b"raw ", b"fl32", b"FL32", b"fl64", b"FL64")
            if is_pcm and announced and _known(frames) and frames * width != announced:
                announced = frames * width if announced >= size - begin else announced
            agrees = not is_pcm or frames * width == announced
            layout = _layout(size, begin, announced, _aiff_header(_at(file, 8, 4), kept, width), tail=agrees)
            return layout
    return WHOLE


def _aiff_header(form: bytes, kept: dict[bytes, bytes], width: int) -> Callable[[int], bytes]:
    def make(n_bytes: int) -> bytes:
        common = kept[b"COMM"]
        chunks = {**kept, b"COMM": common[:2] + struct.pack(">I", n_bytes // width) + common[6:]}
        body = b"".join(n + struct.pack(">I", len(b)) + b + bytes(len(b) % 2) for n, b in chunks.items())
        sound = b"SSND" + struct.pack(">III", min(n_bytes + 8, 0xFFFFFFFF), 0, 0)
        return b"FORM" + struct.pack(">I", min(4 + len(body) + 16 + n_bytes, 0xFFFFFFFF)) + form + body + sound

    return make


def _au(file: BinaryIO, size: int) -> Layout:
    head = _at(file, 0, 24)
    order = ">" if head[:4] == b".snd" else "<"
    if len(head) < 24:
        return WHOLE
    begin, length = struct.unpack(order + "II", head[4:12])

    def header(n_bytes: int) -> bytes:
        return head[:4] + struct.pack(order + "II", 24, min(n_bytes, 0xFFFFFFFF)) + head[12:]

    return _layout(size, begin, _known(length), header, tail=True) if 24 <= begin <= size else WHOLE


def _caf(file: BinaryIO, size: int) -> Layout:
    at, kept = 8, b""
    while at + 12 <= size:
        name, length = struct.unpack(">4sq", _at(file, at, 12))
        if name == b"data":
            announced = length - 4 if 4 < length < _UNKNOWN_64 else 0  # after an edit count of 4 bytes

            def header(n_bytes: int, kept: bytes = kept) -> bytes:
                return b"caff\0\1\0\0" + kept + b"data" + struct.pack(">qI", n_bytes + 4, 0)

            layout = _layout(size, at + 16, announced, header, tail=True)
            # How much audio packets of changing size hold stands in a table of their own, which the decoder reads.
            return layout if any(kept[28:32]) else Layout(layout.part)
        if not 0 <= length <= size - at:
            break
        if name != b"free":
            kept += _at(file, at, 12 + length)
        at += 12 + length
    return WHOLE


# ---- formats whose decoders find the audio; only the missing end is looked for ---------------------------------


def _ogg(file: BinaryIO, size: int) -> Layout:
    """Ogg is cut off where its last page does not carry the end-of-stream flag, or is itself incomplete."""
    data = _at(file, max(0, size - 2 * 65_307), 2 * 65_307)
    last = data.rfind(b"OggS")
    if last < 0 or len(data) - last < 27:
        return Layout(present=0.99)
    n_segments = data[last + 26]
    lengths = data[last + 27 : last + 27 + n_segments]
    complete = len(lengths) == n_segments and last + 27 + n_segments + sum(lengths) <= len(data)
    return WHOLE if complete and data[last + 5] & 4 else Layout(present=0.99)


def _sphere(file: BinaryIO, size: int) -> Layout:
    head = _at(file, 0, 1024).decode("latin-1")
    # Programs write some of the numbers as text (-s1).
    found = {key: int(value) for key, value in re.findall(r"^(\w+) -(?:i|s\d+) (\d+)\s*$", head, re.MULTILINE)}
    lines = head.splitlines()
    begin = int(lines[1]) if len(lines) > 1 and lines[1].strip().isdigit() else 1024
    announced = found.get("sample_count", 0) * found.get("sample_n_bytes", 0) * found.get("channel_count", 1)
    missing = 0 < announced < _UNKNOWN_64 and announced > size - begin
    return Layout(present=max(0, size - begin) / announced) if missing else WHOLE


def _svx(file: BinaryIO, size: int) -> Layout:
    for chunk, _ in _riff_chunks(file, size, ">"):
        if chunk.name == b"BODY":
            return Layout(present=min(1.0, (size - chunk.body) / max(1, chunk.size)))
    return WHOLE


def _voc(file: BinaryIO, size: int) -> Layout:
    at = struct.unpack("<H", _at(file, 20, 2).ljust(2, b"\0"))[0]
    while 26 <= at < size:
        kind, *length = _at(file, at, 4)
        if kind == 0:
            return WHOLE
        n = int.from_bytes(bytes(length), "little")
        if at + 4 + n > size:
            return Layout(present=(size - at - 4) / n)
        at += 4 + n
    return WHOLE


_FORMATS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], Layout]], ...] = (
    (lambda head: head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE", _wav),
    (lambda head: head[:16] == _RIFF_GUID, _wave64),
    (lambda head: head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"), _aiff),
    (lambda head: head[:4] in (b".snd", b"dns."), _au),
    (lambda head: head[:4] == b"caff", _caf),
    (lambda head: head[:4] == b"OggS", _ogg),
    (lambda head: head[:4] == b"FORM" and head[8:12] in (b"8SVX", b"16SV"), _svx),
    (lambda head: head[:7] == b"NIST_1A", _sphere),
    (lambda head: head[:19] == b"Creative Voice File", _voc),
)
