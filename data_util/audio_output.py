"""The one writer of audio files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import soundfile

from atomic import LibraryFile
from signals import deferred


def write_audio(
    path: Path, samples: np.ndarray, rate: int, *, form: str | None = None, subtype: str | None = None
) -> None:
    """Write samples [n] or [n, channels].

    Args:
        path: of the file.
        samples: floats in [-1, 1], or integers.
        rate: in Hz.
        form: name of the format, such as WAV; None: the ending of the path says it.
        subtype: encoding of the samples, such as PCM_16; None: that of the format.

    Raises:
        OSError: the file cannot be made or written; libsndfile itself would not say why.
    """
    with closing(LibraryFile(path)) as file:
        try:
            with deferred():
                soundfile.write(file, samples, rate, format=form or path.suffix[1:].upper(), subtype=subtype)
        finally:
            file.check()
