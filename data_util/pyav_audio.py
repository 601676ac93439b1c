"""Audio that libsndfile does not read (m4a, mp4, aac, wma, webm, ...) through PyAV, which is optional."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from data_util.optional import optional

INSTALL = "pip install -c requirements.txt av"
MICROSECONDS = 1_000_000  # per second, in which FFmpeg counts the length of files


def pyav() -> ModuleType | None:
    """The package, where it is installed."""
    return optional("av")


class AvFile:
    """The first audio stream of a file that FFmpeg reads.

    Attributes:
        sample_rate: Hz.
        channels: how many.
        announced: samples that the file promises; None where it does not say.
        cut_off: whether decoding ended with an error.
    """

    def __init__(self, file: str | BinaryIO) -> None:
        """Open it; raises ValueError with the reason."""
        av = pyav()
        assert av is not None
        try:
            self._container: Any = av.open(file)
        except (av.error.FFmpegError, OSError) as error:
            raise ValueError(getattr(error, "strerror", None) or str(error)) from None
        if not self._container.streams.audio:
            self._container.close()
            raise ValueError("expected audio in it, got other streams only")
        self._stream = self._container.streams.audio[0]
        context = self._stream.codec_context
        if context is None:  # FFmpeg knows no decoder for it
            self._container.close()
            raise ValueError("its audio is of a kind that FFmpeg cannot decode")
        self.sample_rate, self.channels = int(context.sample_rate), int(context.layout.nb_channels)
        seconds = _announced_seconds(self._container)
        self.announced = None if seconds is None else round(seconds * self.sample_rate)
        self.cut_off = False

    def blocks(self) -> Iterator[np.ndarray]:
        """All samples from the start, float32 [n, channels]."""
        av = pyav()
        assert av is not None
        layout = self._stream.codec_context.layout
        to_float = av.AudioResampler(format="fltp", layout=layout, rate=self.sample_rate)
        self._container.seek(0, backward=True)
        try:
            for frame in self._container.decode(self._stream):
                yield from (piece.to_ndarray().T for piece in to_float.resample(frame))
        except (av.error.FFmpegError, OSError):
            self.cut_off = True
        yield from (piece.to_ndarray().T for piece in to_float.resample(None))

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def _announced_seconds(container: Any) -> float | None:
    """How long the first audio stream is by its header; None where that does not say."""
    stream = container.streams.audio[0]
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    # Matroska and WebM tell the length of the whole file alone, which may be that of another stream.
    if len(container.streams) == 1 and "matroska" in container.format.name and container.duration:
        return float(container.duration) / MICROSECONDS
    return None
