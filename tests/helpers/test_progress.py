"""Progress: what it says, and where it says it."""

from __future__ import annotations

import io

import pytest

from helpers import progress
from helpers.progress import Progress, clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_speed_and_time_left(time):
    bar = Progress({"a": 1000, "b": 3000, "c": 1000}, io.StringIO())
    assert bar.remaining() is None
    time[0] += 5
    bar.finished("a", 10.0)
    assert bar.speed == 2 and bar.remaining() == 20  # 4000 bytes are left, at 200 per second
    bar.heard("b", 15.0)  # half of it, going by the bytes of a second
    assert bar.speed == 5 and bar.remaining() == 5
    bar.finished("b", 30.0)
    bar.finished("c", 0.0)  # a bad file
    assert bar.line().startswith("3/3 files, 0:00:40 of audio, 8.0 x real time, 0:00:00 left")


def test_a_terminal_has_one_line(time):
    terminal = Terminal()
    bar = Progress({"a": 1, "b": 1}, terminal)
    for _ in range(50):
        time[0] += 0.05
        bar.heard("a", 1.0)
    assert 10 <= terminal.getvalue().count("\r") <= 15 and "\n" not in terminal.getvalue()
    bar.clear()
    assert terminal.getvalue().endswith("\r")


def test_a_log_file_has_a_line_now_and_then(time):
    log = io.StringIO()
    bar = Progress({"a": 1}, log)
    for _ in range(100):
        time[0] += 1
        bar.heard("a", 1.0)
    assert log.getvalue().count("\n") == 3 and "\r" not in log.getvalue()


def test_clock():
    assert [clock(s) for s in (0, 59.6, 3600 * 11 + 61)] == ["0:00:00", "0:01:00", "11:01:01"]
