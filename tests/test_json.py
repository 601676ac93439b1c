"""JSON is written by one helper, whose text every reader takes: no other call could write NaN."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path

import pytest

from json_text import json_text

ROOT = Path(__file__).parents[1]
HELPER = ROOT / "json_text.py"
FOLDERS = ("benchmarks", "data_util", "docs", "helpers", "models")
SOURCES = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])
WRITERS = {"dump", "dumps", "JSONEncoder"}


def plain_writers(source: str) -> list[int]:
    """Lines that use or import a writer of the module json, also in programs that stand in strings."""
    tree, names, found = ast.parse(source), {"json"}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname for alias in node.names if alias.name == "json" and alias.asname}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "json":
            found += [node.lineno] * any(alias.name in {*WRITERS, "*"} for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            found += [node.lineno] * (node.attr in WRITERS)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "import json" in node.value:
            found += [node.lineno] * any(f"json.{name}" in node.value for name in WRITERS)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_writes_json_past_the_helper(path: Path) -> None:
    assert path == HELPER or plain_writers(path.read_text(encoding="utf-8")) == []


def test_the_search_finds_every_way() -> None:
    ways = ("import json\njson.dumps(1)", "import json as j\nj.dump(1, f)", "from json import dumps", "a = json.dump")
    for way in (
        *ways,
        "import json\nclass A(json.JSONEncoder): pass",
        "from json import *",
        'P = "import json; json.dump(1)"',
    ):
        assert plain_writers(way), way
    for other in ("import json\njson.loads('1')", "from json import loads", "pickle.dumps(1)", "# json.dumps(1)"):
        assert plain_writers(other) == [], other
    assert plain_writers(HELPER.read_text(encoding="utf-8")) and len(SOURCES) > 150


def test_json_has_no_numbers_that_are_none() -> None:
    value = {"a": [math.nan, 1.5, (math.inf, "x")], "b": {"c": -math.inf, "d": True, "e": 3}}
    strict = json.loads(json_text(value), parse_constant=lambda word: pytest.fail(word))
    assert strict == {"a": [None, 1.5, [None, "x"]], "b": {"c": None, "d": True, "e": 3}}


def test_halves_of_characters_can_be_escaped() -> None:
    """File names may hold bytes that are no text; ledgers, locks and packed problems take them."""
    assert json.loads(json_text({"name": "\udc80"}, ensure_ascii=True).encode()) == {"name": "\udc80"}
    assert json_text("ä") == '"ä"' and json_text("ä", ensure_ascii=True) == '"\\u00e4"'
