"""Trackers on a disk without room: one warning that names the folder, and nothing more of them."""

from __future__ import annotations

import copy
import errno
import logging
import os
import pickle
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger, Logger

import config
from helpers import trackers
from helpers.trackers import Unfailing, end_tracking, make_loggers, require_room

WORDS = (
    "is given up: {}: the file is larger than this disk or its limit allows (ulimit -f); name another place; the run"
)


@contextmanager
def no_room() -> Iterator[None]:
    """Let this process write no file beyond 1000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def options_of(name: str) -> config.StrongOptions:
    if name == "sacred":
        return config.StrongOptions(logger="none", recorder="sacred")
    return config.StrongOptions(logger=name)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(autouse=True)
def wandb_offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv(trackers.MONGO_VARIABLE, raising=False)
    yield
    end_tracking()


@pytest.fixture(params=["tensorboard", "csv", "wandb", "sacred"])
def name(request: pytest.FixtureRequest) -> str:
    if request.param != "csv":
        pytest.importorskip(request.param)
    return str(request.param)


def test_no_room_from_the_start(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with no_room(), caplog.at_level(logging.WARNING):
        assert make_loggers(options_of(name), tmp_path) == []
    assert len(caplog.messages) == 1
    assert f"={name} {WORDS.format(tmp_path / name)}" in caplog.messages[0] and "metrics.csv" in caplog.messages[0]
    assert not files(tmp_path) and "Traceback" not in capfd.readouterr().err
    assert name != "wandb" or "wandb" not in sys.modules or sys.modules["wandb"].run is None


def test_the_room_ends_midway(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        (logger,) = make_loggers(options_of(name), tmp_path)
        logger.log_metrics({"a": 1.0}, 1)
        assert isinstance(logger, Unfailing) and not caplog.messages and not logger.given_up
        with no_room():
            for step in range(2, 5):
                logger.log_metrics({"a": 1.0}, step)
                logger.experiment.anything("a stand-in takes all")
        logger.log_metrics({"a": 1.0}, 5)  # not taken up again
        logger.save()
    assert len(caplog.messages) == 1 and WORDS.format(tmp_path / name) in caplog.messages[0] and logger.given_up
    with suppress(OSError):  # TensorBoard's thread may have met the full disk as well, and says so once more
        logger.logger.finalize("failed")  # ends the thread of Sacred
    assert files(tmp_path / name) and "Traceback" not in capfd.readouterr().err
    assert name != "wandb" or sys.modules["wandb"].run is None


def test_with_room_nothing_is_said(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (logger,) = make_loggers(options_of(name), tmp_path)
        logger.log_metrics({"a": 1.0}, 1)
        logger.finalize("success")
    assert not caplog.messages and files(tmp_path / name)
    assert not [path for path in files(tmp_path) if ".room" in path.name]


@pytest.mark.parametrize("n_written", [0, 3], ids=["at its first record", "later"])
def test_the_thread_of_tensorboard_ends_in_a_warning(
    n_written: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The room ends after the look at it."""
    module = pytest.importorskip("tensorboard.summary.writer.record_writer")
    write, n = module.RecordWriter.write, [0]

    def full(self: Any, data: bytes) -> None:
        n[0] += 1
        if n[0] > n_written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, data)

    monkeypatch.setattr(module.RecordWriter, "write", full)
    others: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", others.append)
    with caplog.at_level(logging.WARNING):
        loggers = make_loggers(options_of("tensorboard"), tmp_path)
        for step in range(20):
            loggers[0].log_metrics({"a": 1.0}, step)
        limit = time.monotonic() + 20
        while not caplog.messages and time.monotonic() < limit:
            time.sleep(0.01)
        loggers[0].finalize("success")
    place = tmp_path / "tensorboard"
    assert len(caplog.messages) == 1 and f"{place}: the disk is full; make room" in caplog.messages[0]
    assert "Traceback" not in capfd.readouterr().err and not others
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    assert [found.exc_type for found in others] == [ZeroDivisionError]  # those of others are told as ever


def test_one_that_cannot_begin_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(CSVLogger):
        n_tried = 0

        @property
        def experiment(self) -> Any:
            Broken.n_tried += 1
            raise RuntimeError("no server")

    logger = Unfailing(Broken("nowhere"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            logger.experiment.add_scalar("a", 1.0)
    assert Broken.n_tried == 1 and len(caplog.messages) == 1 and "Broken failed (no server)" in caplog.messages[0]


def test_one_that_cannot_be_made_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lost(*_: Any) -> Logger:
        raise ConnectionError("no route")

    monkeypatch.setitem(trackers._LOGGERS, "csv", lost)
    with caplog.at_level(logging.WARNING):
        assert make_loggers(options_of("csv"), tmp_path) == []
    assert len(caplog.messages) == 1 and "--logger=csv failed (no route)" in caplog.messages[0]


def test_copies_and_pickles_know_the_same(tmp_path: Path) -> None:
    logger = Unfailing(CSVLogger(tmp_path), tmp_path, "--logger=csv")
    for again in (copy.copy(logger), pickle.loads(pickle.dumps(logger))):
        again.give_up(OSError(errno.ENOSPC, "full"))
        assert again.given_up and not logger.given_up and again.place == tmp_path


def test_room_is_looked_for_without_a_trace(tmp_path: Path) -> None:
    require_room(tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []
    with no_room(), pytest.raises(OSError, match="too large") as trouble:
        require_room(tmp_path / "a")
    assert trouble.value.filename == str(tmp_path / "a") and list((tmp_path / "a").iterdir()) == []
