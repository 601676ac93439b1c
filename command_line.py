"""From an option dataclass to a command line: conversion, checks, `--config FILE.yaml`, errors of one line.

Of the project, this module imports `atomic` and `errors` alone, and no torch: wrong options are refused at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import math
import operator
import sys
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from atomic import check_writable, replacing
from errors import UserError, describe, reading

T = TypeVar("T")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
_BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "low": ("at least", operator.ge),
    "high": ("at most", operator.le),
    "above": ("above", operator.gt),
    "below": ("below", operator.lt),
}
_MAX_WHOLE = 2**31 - 1


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    const: Any = None,
    kept: bool = True,
) -> Any:
    """A dataclass field with its help text and its allowed values.

    Args:
        default: without the option.
        help: one line.
        choices: the only values.
        low, high, above, below: bounds of a number; the first two are allowed themselves. Numbers are always finite,
            and whole ones have at most 31 bits unless `high` allows more.
        const: value that the option has when it is named without one.
        kept: whether it describes the experiment, so that `write_yaml` writes it; False for what one call of the
            command line asks for.
    """
    bounds = {"low": low, "high": high, "above": above, "below": below}
    metadata = {"help": help, "choices": choices, "bounds": bounds, "const": const, "kept": kept}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def refuse(name: str, value: object, why: str) -> NoReturn:
    """Raise the UserError for a bad value of an option."""
    text = str(value)
    raise UserError(f"--{name} is {text if len(text) <= 300 else text[:297] + '...'}: {why}")


def check_output(name: str, path: Path, *, folder: bool = False) -> None:
    """Refuse, before any work, an option that names a file or folder to which nothing can be written."""
    try:
        check_writable(path / "file" if folder else path)
    except OSError as error:
        place = f" ({error.filename})" if error.filename != str(path.absolute()) else ""
        error.filename = None
        refuse(name, path, describe(error) + place)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest option names."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _base_type(annotation: Any) -> Any:
    """int for `int | None`, float for `list[float]`, and so on."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is list else annotation


def _is_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) is list or any(
        typing.get_origin(a) is list for a in typing.get_args(annotation)
    )


def _help_text(f: dataclasses.Field[Any], default: Any) -> str:
    text = f.metadata["help"].replace("%", "%%")
    if f.metadata["choices"]:
        text += f" ({', '.join(f.metadata['choices'])})"
    shown = default is not None and not isinstance(default, bool)
    return f"{text} [default: {default}]" if shown else text


def _title(cls: type[Any]) -> str:
    return (cls.__doc__ or cls.__name__).strip().splitlines()[0].rstrip(".")


def _add_argument(group: argparse._ArgumentGroup, f: dataclasses.Field[Any], annotation: Any) -> None:
    default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
    kind = _base_type(annotation)
    if kind is bool:
        shown, other = (f"--no_{f.name}", f"--{f.name}") if default else (f"--{f.name}", f"--no_{f.name}")
        text = ("switch off: " if default else "") + _help_text(f, default)
        group.add_argument(shown, dest=f.name, action="store_false" if default else "store_true", help=text)
        group.add_argument(
            other, dest=f.name, action="store_true" if default else "store_false", help=argparse.SUPPRESS
        )
        return
    extra: dict[str, Any] = {"nargs": "+"} if _is_list(annotation) else {}
    if f.metadata["const"] is not None:
        extra = {"nargs": "?", "const": f.metadata["const"]}
    metavar = {str: "NAME", int: "N", float: "X", Path: "PATH"}.get(kind, kind.__name__.upper())
    group.add_argument(f"--{f.name}", help=_help_text(f, default), metavar=metavar, **extra)


def build_parser(cls: type[Any]) -> argparse.ArgumentParser:
    """The command line of an option dataclass; options that are not given stay absent from the result."""
    parser = _Parser(
        description=_title(cls) + ".",
        usage="%(prog)s [options]",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="options in a file; the command line wins")
    hints = typing.get_type_hints(cls)
    bases = [base for base in reversed(cls.__mro__) if dataclasses.is_dataclass(base)]
    groups = {base: parser.add_argument_group(_title(base)) for base in bases}
    for f in dataclasses.fields(cls):
        owner = next(base for base in bases if f.name in inspect.get_annotations(base))
        _add_argument(groups[owner], f, hints[f.name])
    return parser


def _is_optional(annotation: Any) -> bool:
    return type(None) in typing.get_args(annotation)


def _convert(name: str, value: Any, annotation: Any) -> Any:
    """Text or a value of a YAML file as the type of the option."""
    if value is None:
        if not _is_optional(annotation):
            refuse(name, "empty", "give it a value, or leave the option away")
        return None
    kind = _base_type(annotation)
    if _is_list(annotation):
        return [_convert_one(name, v, kind) for v in (value if isinstance(value, (list, tuple)) else [value])]
    return _convert_one(name, value, kind)


def _convert_one(name: str, value: Any, kind: Any) -> Any:
    try:
        if isinstance(value, (list, tuple, dict, set, bytes)) or isinstance(value, bool) != (kind is bool):
            raise ValueError
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        converted = kind(value)
    except (TypeError, ValueError, OverflowError):
        refuse(name, value, f"must be {_KINDS[kind]}")
    if kind in (str, Path) and ("\0" in str(value) or not str(value).strip()):
        refuse(name, repr(value), f"must be {_KINDS[kind]}")
    return converted


def _check_value(f: dataclasses.Field[Any], value: Any) -> None:
    choices = f.metadata["choices"]
    for v in value if isinstance(value, list) else [value]:
        if choices and v is not None and v not in choices:
            refuse(f.name, v, f"must be one of {', '.join(choices)}")
        if isinstance(v, (int, float)) and not isinstance(v, bool):
            _check_number(f.name, v, {name: b for name, b in f.metadata["bounds"].items() if b is not None})


def _check_number(name: str, value: float, bounds: dict[str, float]) -> None:
    finite, open_ended = not isinstance(value, float) or math.isfinite(value), not {"high", "below"} & bounds.keys()
    if isinstance(value, int) and open_ended and value > _MAX_WHOLE:
        bounds = {**bounds, "high": _MAX_WHOLE}  # a limit that only those who meet it need to know
    if finite and all(_BOUNDS[kind][1](value, bound) for kind, bound in bounds.items()):
        return
    limits = {kind: f"{bound:,.12g}" for kind, bound in bounds.items()}
    words = [f"{_BOUNDS[kind][0]} {limit}" for kind, limit in limits.items()]
    if limits.keys() == {"low", "high"}:
        words = [f"between {limits['low']} and {limits['high']}"]
    if not finite and open_ended:
        words = ["finite", *words]
    refuse(name, value, f"must be {' and '.join(words)}")


def build(cls: type[T], values: dict[str, Any]) -> T:
    """Options of `cls` from plain values (text or parsed), converted and checked; raises UserError.

    Their names stand in the attribute `given`; a method `check` of the class sees them there.
    """
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    converted = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2)
            hint = f"; did you mean --{' or --'.join(near)}?" if near else ""
            raise UserError(f"unknown option --{name}{hint}")
        converted[name] = _convert(name, value, hints[name])
        _check_value(known[name], converted[name])
    options = cls(**converted)
    options.given = frozenset(values)  # type: ignore[attr-defined]
    check = getattr(options, "check", None)
    if check is not None:
        check()
    return options


def parse(cls: type[T], argv: Sequence[str] | None = None) -> T:
    """Options from a command line, on top of those of `--config FILE.yaml`, on top of the defaults.

    Raises UserError naming the option, the value and what is allowed.
    """
    parser = build_parser(cls)
    given, unknown = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    if unknown:
        raise UserError(_about_unknown(parser, sys.argv[1:] if argv is None else argv, unknown[0]))
    values = vars(given)
    config_file = values.pop("config", None)
    values = {**(read_yaml(config_file) if config_file else {}), **values}
    return build(cls, values)


def _about_unknown(parser: argparse.ArgumentParser, words: Sequence[str], unknown: str) -> str:
    """What is wrong with a word that no option takes: a misspelled option, or a value too many."""
    word = unknown.split("=")[0]
    known = parser._option_string_actions
    if word.startswith("-"):
        near = difflib.get_close_matches(word, known, n=2)
        return f"unknown option '{word}'" + (f"; did you mean {' or '.join(near)}?" if near else "")
    before = list(words[: list(words).index(unknown)])
    option, equals, value = next((word for word in reversed(before) if word.startswith("--")), "").partition("=")
    action = known.get(option)
    if action is not None and action.nargs == "+" and equals:
        return f"'{unknown}' belongs to no option: give several values after a blank, {option} {value} {unknown}"
    if near := difflib.get_close_matches(f"--{word}", known, n=2, cutoff=0.8):  # its dashes are missing
        return f"unknown option '{word}'; did you mean {' or '.join(near)}?"
    takes_one = f" ({option} takes one value)" if action is not None and action.nargs is None else ""
    return f"'{unknown}' belongs to no option{takes_one}: values with blanks need quotes, options begin with --"


def read_yaml(path: Path) -> dict[str, Any]:
    """Options of a YAML file; raises UserError if it is missing or holds anything but `name: value`."""
    import yaml

    with reading(path, "--config"):
        text = path.read_text(encoding="utf-8-sig")
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        refuse("config", path, f"it is not valid YAML ({' '.join(str(error).split())[:150]})")
    if not isinstance(content or {}, dict):
        refuse("config", path, "it must hold lines of the form 'option: value'")
    return {str(name): value for name, value in (content or {}).items()}


def as_dict(options: Any) -> dict[str, Any]:
    """Options as plain values, for YAML files and checkpoints."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(options).items()}


def write_yaml(options: Any, path: Path) -> None:
    """Write the resolved options that describe the experiment so that `--config` reads them back."""
    import yaml

    values = as_dict(options)
    kept = {f.name: values[f.name] for f in dataclasses.fields(options) if f.metadata["kept"]}
    with replacing(path) as part:
        part.write_text(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True), encoding="utf-8")
