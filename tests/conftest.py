"""Settings that must be in place before torch is imported, and fixtures shared by all tests."""

from __future__ import annotations

import functools
import logging
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # busy waiting beside a second process slows steps 40-fold
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder with the golden numbers."""
    return GOLDEN


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip CUDA tests without a GPU, and network tests unless asked for with `-m network`."""
    import torch

    for item in items:
        if "cuda" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if "network" in item.keywords and "network" not in (config.option.markexpr or ""):
            item.add_marker(pytest.mark.skip(reason="needs the internet: run with -m network"))


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """The scripts log to the standard output of their moment, which a later test no longer has."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def synthetic_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic data set in the packed format: 24 training and 8 evaluation clips."""
    from data_util import synthetic

    folder = tmp_path_factory.mktemp("synthetic")
    synthetic.main(["--out", str(folder), "--train", "24", "--eval", "8", "--seed", "5"])
    return folder


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest useful data set: 6 training and 3 evaluation clips."""
    from data_util import synthetic

    folder = tmp_path_factory.mktemp("tiny")
    synthetic.main(["--out", str(folder), "--train", "6", "--eval", "3", "--seed", "6"])
    return folder


@pytest.fixture(scope="session")
def clipwise_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a small data set of 2 s clips in the layout of a clip-wise task, once; task -> its folder."""
    from data_util.synthetic_layouts import LayoutRequest, make_layout

    sizes = {"esc50": (40, 10), "tau2020": (30, 20), "fsd50k": (28, 14), "openmic": (40, 20)}

    @functools.cache
    def folder(task: str) -> Path:
        path = tmp_path_factory.mktemp(task)
        make_layout(path, LayoutRequest(task, *sizes[task], seconds=2.0, seed=7))
        return path

    return folder
