"""Hidden files in a folder of results that say what this program wrote there: one JSON object a line."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from errors import UserError, reading
from json_text import json_text


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """The objects of a ledger, in order; none where it is not there. A line that a killed run left half written counts
    as missing.

    Raises:
        UserError: the ledger is a link, no file, or not text.
    """
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return []
    _check_kind(path, kind)
    try:
        with reading(path, "the ledger"):
            text = path.read_bytes().decode()
    except UserError as error:
        raise UserError(f"{error}; or remove it, then --overwrite replaces the results of {path.parent}") from None
    entries = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries


def append_to_ledger(path: Path, entry: dict[str, Any]) -> None:
    """Add a line.

    Raises:
        UserError: the ledger is a link, which would let us write anywhere, or no file.
    """
    if path.is_symlink() or path.exists():
        _check_kind(path, path.lstat().st_mode)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, flags, 0o666), "a", encoding="utf-8") as file:
        # The line before may be one that a killed run left half written.
        file.write("\n" + json_text(entry, ensure_ascii=True) + "\n")


def _check_kind(path: Path, kind: int) -> None:
    if not stat.S_ISREG(kind):
        what = "a symbolic link" if stat.S_ISLNK(kind) else "no file"
        raise UserError(f"{path} is {what}; remove it, then --overwrite replaces the results of {path.parent}")
