"""Where figures go: W&B, TensorBoard, CSV; and Sacred beside them. None of them can end a run."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

import config
from errors import UserError

log = logging.getLogger("efficientsed")

WANDB_PROJECT = "EfficientSED"
MONGO_VARIABLE = "SACRED_MONGO_URL"


class Unfailing(Logger):
    """A logger whose failures (full disk, lost connection) are told once and do not end the run.

    Args:
        logger: that does the work; its other attributes (`experiment`, ...) are reached through this one.
    """

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self.logger = logger
        self._told = False

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
        return self.logger.experiment  # type: ignore[attr-defined]

    def attempt(self, action: Callable[[], Any]) -> None:
        """Do something with the tracker; a failure is a warning, the first time."""
        try:
            action()
        except Exception as error:  # trackers raise their own classes
            if not self._told:
                name = type(self.logger).__name__
                log.warning("%s failed (%s); the run goes on, its metrics.csv is complete", name, error)
            self._told = True

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


def make_loggers(options: config.RunOptions, folder: Path) -> list[Logger]:
    """The experiment tracker of `--logger` and the recorder of `--recorder`; W&B records offline, and says so, when
    nobody is logged in.

    Raises UserError where a package is missing.
    """
    require_packages(options)
    project = getattr(options, "wandb_project", WANDB_PROJECT)
    made = [_LOGGERS[options.logger](options, folder, project), _RECORDERS[options.recorder](options, folder)]
    loggers: list[Logger] = [Unfailing(logger) for logger in made if logger is not None]
    for logger in loggers:
        logger.log_hyperparams(config.as_dict(options))
    return loggers


def _wandb(options: config.RunOptions, folder: Path, project: str) -> Logger:
    os.environ.setdefault("WANDB_SILENT", "true")  # before the import
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

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self._run.log_scalar(name, float(value), step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._success = status == "success"
        self._done.set()
        if self._thread.is_alive():
            self._thread.join(timeout=60)


_RECORDERS: dict[str, Callable[[config.RunOptions, Path], Logger | None]] = {
    "none": lambda options, folder: None,
    "sacred": SacredLogger,
}
