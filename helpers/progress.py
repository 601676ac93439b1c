"""How far a run is, how fast, and when it will end; on a terminal in one line that is rewritten."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_PAUSE = {True: 0.2, False: 30.0}  # seconds between reports on a terminal, and into a log file


class Progress:
    """Counts finished files and the audio that has been heard.

    Arguments:
        sizes: bytes of each file, by its key: what is left to do is estimated from them.
        stream: where it reports.
    """

    def __init__(self, sizes: dict[object, int], stream: TextIO | None = None) -> None:
        self.sizes, self.stream = sizes, stream or sys.stderr
        self.seconds = 0.0  # of audio, of finished files
        self.n_done = 0
        self._bytes_done = 0
        self._partial: dict[object, float] = {}  # seconds heard of unfinished files
        self._start = time.perf_counter()
        self._shown = 0.0
        self._width = 0

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @property
    def speed(self) -> float:
        """Seconds of audio per second."""
        return (self.seconds + sum(self._partial.values())) / max(self.elapsed, 1e-9)

    def heard(self, key: object, seconds: float) -> None:
        """So much of a file has been heard."""
        self._partial[key] = seconds
        self._report()

    def finished(self, key: object, seconds: float) -> None:
        """A file is done (a bad one with 0 seconds)."""
        self._partial.pop(key, None)
        self.seconds += seconds
        self.n_done += 1
        self._bytes_done += self.sizes.get(key, 0)
        self._report()

    def remaining(self) -> float | None:
        """Seconds until the end, once there is something to judge by."""
        total = sum(self.sizes.values())
        per_second = self._bytes_done / self.seconds if self.seconds else 0.0  # bytes of a second of audio
        done = self._bytes_done + per_second * sum(self._partial.values())
        if not 0 < done <= total:
            return None
        return self.elapsed * (total - done) / done

    def line(self) -> str:
        """The report: files, audio, real-time factor, time left."""
        left = self.remaining()
        eta = "" if left is None else f", {clock(left)} left"
        heard = clock(self.seconds + sum(self._partial.values()))
        return f"{self.n_done}/{len(self.sizes)} files, {heard} of audio, {self.speed:.1f} x real time{eta}"

    def clear(self) -> None:
        """Take the line off the terminal."""
        if self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self.stream.flush()
            self._width = 0

    def _report(self) -> None:
        terminal = self.stream.isatty()
        if self.elapsed - self._shown < _PAUSE[terminal]:
            return
        self._shown = self.elapsed
        line = self.line()
        if terminal:
            self.stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()


def clock(seconds: float) -> str:
    """A time span as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
