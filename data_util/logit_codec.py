"""Packs the frame-wise logits of a clip into a few kilobytes, at a known cost in probability.

Three facts about detectors make it small. Of 447 classes only a few dozen ever rise above 1 % in a clip: every other
row becomes one number. Far from 0 a logit may be wrong by much before its probability is by little: the steps of the
quantiser grow with the distance from 0. Neighbouring frames are alike: differences along time compress well.

The distillation loss BCE(z, p) = softplus(z) - p z is linear in the teacher's probability p, so a quiet row is
represented by the logit of its *mean probability*, which keeps the loss of a student that is steady there.
"""

from __future__ import annotations

import zlib

import numpy as np

QUIET_LOGIT = -4.6  # a row whose logits all lie below (probability 1 %) is stored as one number
STEPS = 16.0  # codes per unit of asinh(logit): a step is 1/16 at 0, 0.14 at +-2, 0.26 at +-4, 0.5 at +-8
LARGEST_CODE = 64  # +-27 in logits; more is cut off
_ROW_STEP = 1 / 12  # logits per code of a quiet row, from 0 downwards, to -21.25
_LEVEL = 9  # of zlib; the time goes into writing, reading is as fast for every level

_CODES = np.arange(-128, 128)  # codes beyond the largest come from damaged bytes only
_LOGIT_OF_CODE = np.sinh(_CODES / STEPS).astype(np.float16)  # indexed with code + 128


def encode_logits(logits: np.ndarray) -> bytes:
    """Pack the logits of a clip.

    Args:
        logits: [n_classes, n_frames] float, finite.

    Returns:
        Bytes for `decode_logits`.

    Raises:
        ValueError: logits that are not finite.
    """
    x = np.asarray(logits, np.float32)
    if not np.isfinite(x).all():
        raise ValueError("logits that are not finite")
    loud = x.max(axis=1) >= QUIET_LOGIT
    # Mean of the probabilities; below the threshold exp is as good as the sigmoid in float64 and never underflows.
    odds = np.exp(x[~loud].astype(np.float64))
    mean = (odds / (1 + odds)).mean(axis=1)
    rows = np.zeros(len(x), np.uint8)
    rows[~loud] = np.clip(np.round(-np.log(mean / (1 - mean)) / _ROW_STEP), 0, 255)
    codes = np.clip(np.round(np.arcsinh(x[loud]) * STEPS), -LARGEST_CODE, LARGEST_CODE).astype(np.int8)
    steps = np.diff(codes, axis=1, prepend=np.int8(0))  # wraps around; so does the sum that undoes it
    return zlib.compress(np.packbits(loud).tobytes() + rows[~loud].tobytes() + steps.tobytes(), _LEVEL)


def decode_logits(data: bytes | np.ndarray, n_classes: int, n_frames: int) -> np.ndarray:
    """Unpack the logits of a clip.

    Args:
        data: bytes of `encode_logits`.
        n_classes, n_frames: shape of the result.

    Returns:
        [n_classes, n_frames] float16.

    Raises:
        ValueError: bytes of something else.
    """
    most = -(-n_classes // 8) + n_classes * (n_frames + 1)  # bytes; a few packed ones may claim to be gigabytes
    try:
        unpacker = zlib.decompressobj()
        raw = np.frombuffer(unpacker.decompress(bytes(data), most + 1), np.uint8)
        if not unpacker.eof:
            raise ValueError(f"damaged logits: cut off, or more than {most} bytes")
    except zlib.error as error:
        raise ValueError(f"damaged logits ({error})") from None
    n_mask = -(-n_classes // 8)
    loud = np.unpackbits(raw[:n_mask], count=n_classes).astype(bool) if len(raw) >= n_mask else np.zeros(0, bool)
    n_loud = int(loud.sum())
    n_rows = n_mask + len(loud) - n_loud
    if len(loud) != n_classes or len(raw) != n_rows + n_loud * n_frames:
        raise ValueError(f"damaged logits: {len(raw)} bytes do not make {n_classes} x {n_frames}")
    logits = np.empty((n_classes, n_frames), np.float16)
    logits[~loud] = (raw[n_mask:n_rows] * np.float32(-_ROW_STEP)).astype(np.float16)[:, None]
    steps = raw[n_rows:].view(np.int8).reshape(n_loud, n_frames)
    codes = np.cumsum(steps, axis=1, dtype=np.int8)
    logits[loud] = _LOGIT_OF_CODE[codes.astype(np.int16) + 128]
    return logits
