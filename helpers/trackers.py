"""Where figures go: W&B, TensorBoard, CSV; and Sacred beside them. None of them can end a run.

A tracker whose folder has no room is given up with one warning. Before each call a few bytes are written there on
trial: W&B's process does not say that it cannot write, and TensorBoard's thread does so too late.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
import threading
import weakref
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import DummyExperiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

import config
from atomic import OF_THE_DISK, naming, unfinished
from errors import UserError, describe, one_line
from printable import printable

log = logging.getLogger("efficientsed")

WANDB_PROJECT = "EfficientSED"
MONGO_VARIABLE = "SACRED_MONGO_URL"
ROOM = 1 << 16  # bytes that must fit into a tracker's folder; W&B writes 32 kB at once


def require_room(place: Path) -> None:
    """Raise the OSError, with the name of the folder, that a tracker would meet when it writes there."""
    with naming(place, place):
        place.mkdir(parents=True, exist_ok=True)
        with unfinished(place / f".room.{os.getpid()}.part") as part:
            try:
                part.write_bytes(bytes(ROOM))
            except OSError as error:
                error.filename = str(place)
                raise


class Unfailing(Logger):
    """A logger whose failures (full disk, lost connection) are told once and do not end the run.

    One whose disk is full is given up, and so is one that cannot begin.

    Args:
        logger: that does the work; its other attributes (`experiment`, ...) are reached through this one.
        place: folder that it writes to; None: nowhere.
        title: what the user calls it; None: the name of its class.
    """

    def __init__(self, logger: Logger, place: Path | None = None, title: str | None = None) -> None:
        super().__init__()
        self.logger = logger
        self.place, self.title = place, title or type(logger).__name__
        self.given_up = False
        self._told = False
        self._lock = threading.RLock()  # a thread of the tracker may be the first to fail

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        if name == "logger":  # not there yet while this is being copied or unpickled
            raise AttributeError(name)
        return getattr(self.logger, name)

    @property
    def name(self) -> str | None:
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        return self.logger.version

    @property
    def save_dir(self) -> str | None:
        return self.logger.save_dir

    @property
    def experiment(self) -> Any:
        """What the tracker records in; a stand-in that takes everything where the tracker cannot begin."""
        if not self.given_up:
            try:
                self._require_room()
                return self.logger.experiment  # type: ignore[attr-defined]
            except Exception as error:
                self.give_up(error)
        return DummyExperiment()

    def attempt(self, action: Callable[[], Any]) -> None:
        """Do something with the tracker; a failure is a warning, the first time."""
        if self.given_up:
            return
        try:
            self._require_room()
            action()
        except Exception as error:  # trackers raise their own classes
            if _of_the_disk(error) is not None:
                self.give_up(error)
            else:
                self._tell(error)

    def _require_room(self) -> None:
        if self.place is not None:
            require_room(self.place)

    def give_up(self, error: BaseException) -> None:
        """Call the tracker no more; it may have a process of its own, which ends."""
        self._tell(error)
        with self._lock:
            first, self.given_up = not self.given_up, True
        if first and isinstance(self.logger, WandbLogger):
            with contextlib.suppress(Exception):  # its process may be dead already
                end_tracking()

    def _tell(self, error: BaseException) -> None:
        with self._lock:
            told, self._told = self._told, True
        if not told:
            log.warning("%s", printable(_warning(self.title, self.place, error)))

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.attempt(lambda: self.logger.log_metrics(metrics, step))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self.attempt(lambda: self.logger.log_hyperparams(params, *args, **kwargs))

    @rank_zero_only
    def save(self) -> None:
        self.attempt(self.logger.save)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.attempt(lambda: self.logger.finalize(status))


def _of_the_disk(error: BaseException | None) -> OSError | None:
    """The error of a disk without room that this one comes from, if any; Lightning words some anew."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            return error
        error = error.__cause__ or error.__context__
    return None


def _warning(title: str, place: Path | None, error: BaseException) -> str:
    """A failure in one line: which tracker and folder, and what to do."""
    rest = "the run goes on, and its figures are in metrics.csv"
    full = _of_the_disk(error)
    if full is None:
        return f"{title} failed ({one_line(error)}); {rest}"
    named = OSError(full.errno, full.strerror, full.filename if place is None else str(place))
    return f"{title} is given up: {describe(named)}; {rest}"


def make_loggers(options: config.RunOptions, folder: Path) -> list[Logger]:
    """The experiment tracker of `--logger` and the recorder of `--recorder`; W&B records offline, and says so, when
    nobody is logged in. One that cannot be made is a warning, and left out.

    Raises UserError where a package is missing.
    """
    require_packages(options)
    project = getattr(options, "wandb_project", WANDB_PROJECT)
    wanted: list[tuple[str, str, Callable[[], Logger | None]]] = [
        ("logger", options.logger, lambda: _LOGGERS[options.logger](options, folder, project)),
        ("recorder", options.recorder, lambda: _RECORDERS[options.recorder](options, folder)),
    ]
    loggers: list[Logger] = []
    for option, name, make in wanted:
        if name != "none" and (logger := _made(make, _place(name, folder), f"--{option}={name}")) is not None:
            logger.log_hyperparams(config.as_dict(options))
            loggers.append(logger)
    return loggers


def _place(name: str, folder: Path) -> Path | None:
    """Where a tracker writes: a folder of its name, or, where Sacred has a database, nowhere."""
    return None if name == "sacred" and os.environ.get(MONGO_VARIABLE) else folder / name


def _made(make: Callable[[], Logger | None], place: Path | None, title: str) -> Unfailing | None:
    try:
        if place is not None:
            require_room(place)
        logger = make()
    except UserError:
        raise
    except Exception as error:  # trackers raise their own classes
        log.warning("%s", printable(_warning(title, place, error)))
        return None
    if logger is None:
        return None
    made = Unfailing(logger, place, title)
    if isinstance(logger, TensorBoardLogger):
        _watch_writers(made)
    return made


_WRITERS = ("tensorboard.", "tensorboardX.")  # packages whose threads write for TensorBoard


def _watch_writers(tracker: Unfailing) -> None:
    """Let what ends TensorBoard's thread be one warning in place of a traceback, from now on."""
    owner = weakref.ref(tracker)
    before = getattr(threading.excepthook, "before", threading.excepthook)  # not one upon another in a long process

    def hook(args: threading.ExceptHookArgs) -> None:
        tracker = owner()
        if not type(args.thread).__module__.startswith(_WRITERS) or args.exc_value is None:
            before(args)
        elif tracker is not None:
            tracker.give_up(args.exc_value)

    hook.before = before  # type: ignore[attr-defined]
    threading.excepthook = hook


def _hush_wandb() -> None:
    """Keep W&B's own log, and the connection to its process, quiet on a full disk: they print a traceback a line."""
    logging.raiseExceptions = False  # ours (`helpers.run_folder`) deals with its errors itself
    connection = logging.getLogger("asyncio")
    if _not_of_a_lost_process not in connection.filters:
        connection.addFilter(_not_of_a_lost_process)


def _not_of_a_lost_process(record: logging.LogRecord) -> bool:
    return "socket.send() raised exception" not in record.getMessage()


def _wandb(options: config.RunOptions, folder: Path, project: str) -> Logger:
    os.environ.setdefault("WANDB_SILENT", "true")  # before the import
    _hush_wandb()
    import wandb

    try:
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
    except Exception as error:  # no network, a wrong key: the figures can be sent later
        log.warning("W&B cannot be reached (%s)", error)
        mode = "offline"
    if mode == "offline":
        log.info("W&B: not logged in, recording offline in %s/wandb (later: wandb sync)", folder)
    return WandbLogger(name=options.experiment_name, project=project, save_dir=folder, mode=mode)


def require_packages(options: config.RunOptions) -> None:
    """Raise UserError where `--logger` or `--recorder` needs a package that is not installed."""
    for option, name in (("logger", options.logger), ("recorder", options.recorder)):
        packages = _PACKAGES.get(name, [])
        if packages and not any(map(importlib.util.find_spec, packages)):
            raise UserError(f"--{option} {name} needs a package: pip install {name}")


_PACKAGES = {"tensorboard": ["tensorboard", "tensorboardX"], "sacred": ["sacred"]}  # any of which will do
_LOGGERS: dict[str, Callable[[config.RunOptions, Path, str], Logger | None]] = {
    "wandb": _wandb,
    "tensorboard": lambda options, folder, project: TensorBoardLogger(folder, name="tensorboard"),
    "csv": lambda options, folder, project: CSVLogger(folder, name="csv"),
    "none": lambda options, folder, project: None,
}


def end_tracking() -> None:
    """Close the run that W&B has open, so that the next training of this process gets one of its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


class SacredLogger(Logger):
    """Records a run with Sacred: options, sources, host and metrics, in files or, where the variable
    SACRED_MONGO_URL names one, in a database.

    Sacred wants to call what it records. So its experiment is a thread that waits until the Trainer is done.
    """

    def __init__(self, options: config.RunOptions, folder: Path) -> None:
        super().__init__()
        from sacred import Experiment
        from sacred.observers import FileStorageObserver, MongoObserver

        url = os.environ.get(MONGO_VARIABLE)
        self._experiment = Experiment(options.experiment_name, base_dir=str(Path(__file__).resolve().parents[1]))
        self._experiment.observers.append(MongoObserver(url=url) if url else FileStorageObserver(folder / "sacred"))
        self._experiment.add_config({"options": config.as_dict(options)})
        self._experiment.main(lambda _run: self._wait(_run))  # Sacred takes functions, no methods
        self._begun, self._done = threading.Event(), threading.Event()
        self._success = False
        self._run: Any = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._record, name="sacred", daemon=True)

    @property
    def name(self) -> str:
        return "sacred"

    @property
    def version(self) -> str | None:
        return None if self._run is None else str(self._run._id)

    @property
    def experiment(self) -> Any:
        """The run of Sacred; None before it begins."""
        return self._run

    def _record(self) -> None:
        try:
            with contextlib.suppress(KeyboardInterrupt):  # how a run that was broken off is told to Sacred
                self._experiment.run(options={"--capture": "no"})
        except Exception as error:  # for the caller: a thread would print its traceback
            self._error = error
        finally:  # an observer may be out of reach; nobody should wait for it
            self._begun.set()

    def _wait(self, run: Any) -> None:
        self._run = run
        self._begun.set()
        self._done.wait()
        if not self._success:
            raise KeyboardInterrupt

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        if not self._begun.is_set():
            self._thread.start()
            self._begun.wait()
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._check()
        for name, value in metrics.items():
            self._run.log_scalar(name, float(value), step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._success = status == "success"
        self._done.set()
        if self._thread.is_alive():
            self._thread.join(timeout=60)
        self._check()


_RECORDERS: dict[str, Callable[[config.RunOptions, Path], Logger | None]] = {
    "none": lambda options, folder: None,
    "sacred": SacredLogger,
}
