"""Settings that must be in place before torch is imported, and fixtures shared by all tests."""

from __future__ import annotations

import collections
import functools
import logging
import os
import re
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # busy waiting beside a second process slows steps 40-fold
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
# What a machine with the packages of requirements-dev.txt and a browser may lack.
KNOWN_SKIPS = re.compile(
    r"no CUDA device|needs the internet: run with -m network|no fork on this system|other systems have no such names"
    r"|DeepSpeed is for Linux|real weights and recordings are not here \(EFFICIENTSED_WEIGHTS=FOLDER\)"
    + (r"|could not import '(crowsetta|pyannote).*" if sys.version_info < (3, 11) else "")
)


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


def pytest_addoption(parser: pytest.Parser) -> None:
    """An option for CI, where a skipped test is a test that nobody runs."""
    text = "fail if a test is skipped for another reason than a device or network that is not there"
    parser.addoption("--known_skips_only", action="store_true", help=text)


def skip_reasons(reports: list[pytest.TestReport]) -> collections.Counter[str]:
    """Why tests or files of tests were skipped, and how many of them."""
    reasons = (report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr) for report in reports)
    return collections.Counter(reason.removeprefix("Skipped: ") for reason in reasons)


@pytest.hookimpl(trylast=True)  # xdist has collected the workers' reports by then
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With `--known_skips_only`, an unknown reason makes the exit code 1."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and session.config.option.known_skips_only:
        unknown = [r for r in skip_reasons(reporter.stats.get("skipped", [])) if not KNOWN_SKIPS.fullmatch(r)]
        if unknown and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line for each reason of skipping, not one for each test."""
    reasons = skip_reasons(terminalreporter.stats.get("skipped", []))
    for reason, n in sorted(reasons.items()):
        unknown = config.option.known_skips_only and not KNOWN_SKIPS.fullmatch(reason)
        terminalreporter.write_line(f"skipped {n}: {reason}{' (fails: --known_skips_only)' if unknown else ''}")


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
