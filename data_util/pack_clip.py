"""One clip on its way into a packed file: checked, cut, mixed to mono, encoded."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

from data_util.audio import CLIP_SECONDS, DecodeError, decode_channels, resample
from data_util.channels import ChannelMixer
from data_util.mp3_frames import scan
from signals import deferred

PACKED_RATE = 32_000  # Hz
_LENGTH_TOLERANCE = 0.3  # s: MP3 frames and encoder padding make a clip a little longer
_SILENCE = 10 ** (-80 / 20)  # peak below which a clip counts as silent
_FULL_SCALE, _CLIPPED_SHARE = 0.999, 1e-3


@dataclass(frozen=True)
class PackedClip:
    """Bytes ready to be stored, and what is wrong with the clip.

    Attributes:
        mp3: MP3 bytes; empty when the clip cannot be read.
        digest: hash of the file's bytes, the same for the same audio file under two names.
        problems: (unreadable, cut off, odd, silent, too short, too long or clipped; in more words).
    """

    mp3: bytes
    digest: str
    problems: list[tuple[str, str]] = field(default_factory=list)


CRASHED = PackedClip(b"", "", [("unreadable", "the process that read it died: no memory, or a crash of the decoder")])


def encode_mp3(audio: np.ndarray, rate: int = PACKED_RATE) -> bytes:
    """Encode [N] or [N, channels] float32 as MP3 (libsndfile, variable bit rate)."""
    buffer = io.BytesIO()
    with deferred():
        soundfile.write(buffer, audio, rate, format="MP3", subtype="MPEG_LAYER_III")
    return buffer.getvalue()


def pack_clip(path: Path, min_seconds: float, channel: int | None = None, strict: bool = False) -> PackedClip:
    """Read a file and make it mono MP3 at 32 kHz of at most 10 s; bytes that are so already stay as they are.

    Args:
        path: audio file.
        min_seconds: a shorter clip is reported as too short.
        channel: of several, counted from 0; None: the mean of all.
        strict: leave a file out whose end is missing; otherwise what is there is packed, and reported.

    Returns:
        The clip. Never raises for the sake of one file: what is wrong stands in `problems`.
    """
    try:
        data = path.read_bytes()
        decoded = decode_channels(data)
    except (DecodeError, OSError) as error:
        return PackedClip(b"", "", [("unreadable", " ".join(str(error).split()))])
    if decoded.cut_off and strict:
        return PackedClip(b"", "", [("cut off", decoded.notes[-1])])
    audio, rate = decoded.audio, decoded.sample_rate
    mixer = ChannelMixer(channel)
    mono = mixer(audio)
    problems = _problems(audio, rate, min_seconds)
    problems += [("cut off" if "cut off" in note else "odd", note) for note in decoded.notes]
    problems += [("odd", mixer.note)] if mixer.note else []
    if not _fits(data, audio, rate):
        mono = mono[: round(CLIP_SECONDS * rate)]
        try:
            data_out = encode_mp3(resample(mono, rate, PACKED_RATE))
        except soundfile.SoundFileError as error:
            return PackedClip(b"", "", [("unreadable", f"cannot be encoded: {error}")])
        if not data_out:
            return PackedClip(b"", "", [("unreadable", "too short to hold a sample at 32 kHz")])
        return PackedClip(data_out, _digest(data), problems)
    return PackedClip(data, _digest(data), problems)


def _fits(data: bytes, audio: np.ndarray, rate: int) -> bool:
    if rate != PACKED_RATE or audio.shape[1] != 1 or len(audio) > (CLIP_SECONDS + _LENGTH_TOLERANCE) * rate:
        return False
    with io.BytesIO(data) as file:
        segments = scan(file, len(data))  # one, or readers would disagree about the length
        return len(segments) == 1 and segments[0].begin == 0 and segments[0].is_complete


def _problems(audio: np.ndarray, rate: int, min_seconds: float) -> list[tuple[str, str]]:
    seconds, peak = len(audio) / rate, float(np.abs(audio).max())
    problems = []
    if seconds < min_seconds:
        problems.append(("too short", f"{seconds:.3f} s"))
    if seconds > CLIP_SECONDS + _LENGTH_TOLERANCE:
        problems.append(("too long", f"{seconds:.3f} s, of which the first {CLIP_SECONDS:g} are packed"))
    if peak < _SILENCE:
        problems.append(("silent", f"peak {peak:.1e}"))
    share = float(np.mean(np.abs(audio) >= _FULL_SCALE))
    if share >= _CLIPPED_SHARE:
        problems.append(("clipped", f"{share:.1%} of the samples at full scale"))
    return problems


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
