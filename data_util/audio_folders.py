"""Which files of a folder are audio: the one answer for inference, fine-tuning, packing and the tasks."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path

from errors import UserError, describe

# What libsndfile reads ...
SNDFILE_ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *("wav", "wave", "bwf", "flac", "mp3", "mpga", "ogg", "oga", "opus", "aif", "aiff", "aifc", "au", "snd"),
        *("caf", "w64", "rf64", "wv", "voc", "ircam", "sph", "nist", "mp2", "mp1"),
    )
)
# ... and what looks like audio and needs FFmpeg. Files of mere video (mkv, mov, avi) are left out.
FFMPEG_ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *("m4a", "mp4", "m4b", "m4r", "aac", "adts", "alac", "wma", "webm", "weba", "mka", "amr", "awb", "3gp"),
        *("3ga", "3g2", "ac3", "eac3", "dts", "ape", "tta", "tak", "mpc", "spx", "ra", "dsf", "dff", "gsm"),
    )
)
AUDIO_ENDINGS = SNDFILE_ENDINGS | FFMPEG_ENDINGS

_log = logging.getLogger(__name__)


def is_audio_name(path: str | os.PathLike[str]) -> bool:
    """Whether a file looks like audio by its ending, in any case."""
    return os.path.splitext(path)[1].lower() in AUDIO_ENDINGS


def beneath(folder: str | os.PathLike[str], endings: Collection[str] = AUDIO_ENDINGS) -> list[Path]:
    """All files with these endings below a folder, sorted.

    Folders behind links are followed, each real one once: a folder that is reached directly and by a link counts
    under its own path, and loops end. Hidden files and folders (`.name`) are left out. A link that leads nowhere is
    in the result, so that whoever reads the files reports it.

    Args:
        folder: that exists.
        endings: lower case, with the dot.

    Raises:
        UserError: the folder cannot be read. One below it that cannot be read is left out with a warning.
    """
    found = []
    for place, names in _folders(str(folder)):
        for name in names:
            path = os.path.join(place, name)
            fits = not name.startswith(".") and os.path.splitext(name)[1].lower() in endings
            if fits and (os.path.isfile(path) or not os.path.exists(path)):
                found.append(Path(path))
    return sorted(found)


def _folders(top: str) -> Iterator[tuple[str, list[str]]]:
    """Each folder below `top` with the names of its files; links are followed when all else has been visited."""

    def refuse(error: OSError) -> None:
        if error.filename == top:
            raise UserError(f"cannot read the folder {describe(error)}") from None
        _log.warning("a folder cannot be read and is left out: %s", describe(error))

    seen: set[str] = set()
    real_top = os.path.realpath(top)
    starts = deque([top])
    while starts:
        for place, folders, files in os.walk(starts.popleft(), onerror=refuse):
            real = os.path.realpath(place)
            # A link to a folder above `top` is a loop, too: following it would bring in what lies beside `top`.
            if real in seen or (place != top and os.path.join(real_top, "").startswith(os.path.join(real, ""))):
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            starts.extend(path for name in folders if os.path.islink(path := os.path.join(place, name)))
            yield place, files
