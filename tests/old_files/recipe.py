"""What the maker of the old files and the tests of them share: test tones, compressible weights, caught command lines.

It imports nothing of the project, so that it runs with the old code as well as with that of today.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import runpy
import sys
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

RATE = 16_000
MODEL = "fmn01"  # the smallest backbone
SCRIPTS = (
    "complexity.py",
    "demo.py",
    "ex_audioset_strong.py",
    "ex_audioset_strong_online_distillation.py",
    "ex_audioset_weak.py",
    "ex_dcase2016task2.py",
    "ex_downstream.py",
    "ex_finetune.py",
    "export.py",
    "inference.py",
    "make_pseudo_labels.py",
    "web.py",
)
MODULES = (
    "data_util.check",
    "data_util.pack",
    "data_util.pseudo_labels",
    "data_util.synthetic",
    "data_util.weak_teacher",
    "helpers.psds",
)


def tones(events: Sequence[tuple[float, float, int]], seconds: float) -> np.ndarray:
    """[n] float32 at 16 kHz: tones of (onset s, offset s, Hz), over a quiet hum of 125 Hz.

    The frequencies divide 16,000, so that the samples repeat and the file compresses well.
    """
    time = np.arange(round(seconds * RATE))
    audio = 0.02 * np.sin(2 * np.pi * 125 * (time % RATE) / RATE)
    for onset, offset, hertz in events:
        active = slice(round(onset * RATE), round(offset * RATE))
        audio[active] += 0.4 * np.sin(2 * np.pi * hertz * (time[active] % RATE) / RATE)
    return audio.astype(np.float32)


def pattern(name: str, shape: Sequence[int], is_state: bool = True) -> np.ndarray:
    """float32 values of a tensor, that compress because they repeat, and still answer differently to each input.

    Args:
        name: of the tensor in a state dict; decides the values.
        shape: of the result.
        is_state: whether these are weights; otherwise moments of an optimiser, which stay small and positive.
    """
    size = int(np.prod(shape))
    values = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(61).astype(np.float32)
    if not is_state:
        return np.full(shape, 1e-4, np.float32)
    if name.endswith("running_var"):
        return np.ones(shape, np.float32)
    if name.endswith("running_mean"):
        return np.zeros(shape, np.float32)
    if len(shape) <= 1:
        is_scale = name.endswith("weight")
        return np.resize(np.float32(0.1) * values[:7] + np.float32(is_scale), shape)
    gain = 8.0 if "head" in name else 1.4
    return (np.resize(values, size) * np.float32(gain / np.sqrt(size / shape[0]))).reshape(shape)


class _CaughtError(BaseException):
    """Carries a parser out of a script; no `except Exception` stops it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


@contextlib.contextmanager
def _catching() -> Iterator[None]:
    """Every parser gives itself up in place of parsing."""

    def caught(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> NoReturn:
        raise _CaughtError(parser)

    parse = argparse.ArgumentParser.parse_known_args
    argparse.ArgumentParser.parse_known_args = caught  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser.parse_known_args = parse  # type: ignore[method-assign]


def run(root: Path, command: str, *words: object) -> None:
    """Run a script (`x.py`) or `python -m` module of the project under `root` in this process; SystemExit if it fails.

    An exit code of 0 is no exit.
    """
    saved = sys.argv
    sys.argv = [command, *(str(word) for word in words)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of modules that were imported before
            if command.endswith(".py"):
                runpy.run_path(str(root / command), run_name="__main__")
            else:
                runpy.run_module(command, run_name="__main__")
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise
    finally:
        sys.argv = saved


def command_line(root: Path, command: str) -> dict[str, dict[str, Any]]:
    """Each option string (and positional argument) of a command: what is unusual about it; no default is None."""
    data = os.environ.pop("AUDIOSET_DIR", None)
    try:
        with _catching():
            run(root, command)
    except _CaughtError as caught:
        parser = caught.parser
    else:
        raise AssertionError(f"{command} parses no options")
    finally:
        if data is not None:
            os.environ["AUDIOSET_DIR"] = data
    options = {}
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            for name in action.option_strings or [action.dest]:
                options[name] = _described(action)
    return options


def _described(action: argparse.Action) -> dict[str, Any]:
    text = "" if action.help in (None, argparse.SUPPRESS) else str(action.help)
    told = re.search(r" \[default: (.*)\]$", text)
    default = (told[1] if told else None) if action.default is argparse.SUPPRESS else _plain(action.default)
    words = re.search(r"\(([^()\s]+(?:, [^()\s]+)+)\)(?: \[default: .*\])?$", text)
    choices = [str(choice) for choice in action.choices] if action.choices else words[1].split(", ") if words else []
    described = {
        "option": action.dest,
        "kind": type(action).__name__,  # a switch says by this what it is without its option
        "shown": action.help is not argparse.SUPPRESS,
        "values": action.nargs,
        "alone": _plain(action.const),
        "required": action.required,
        "default": default,
        "choices": choices,
    }
    usual = {"shown": True, "values": None, "alone": None, "required": False, "default": None, "choices": []}
    return {key: value for key, value in described.items() if key not in usual or not _same(value, usual[key])}


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
