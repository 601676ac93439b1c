"""Who may import whom: the rules of CONTRIBUTING.md, held by walking the import statements of all modules."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("models", "data_util", "helpers")
GROUND = {
    "atomic",
    "errors",
    "json_text",
    "locks",
    "printable",
    "signals",
    "command_line",
}  # need the standard library alone (command_line reads YAML)
PURE = ("augment", "losses", "optim", "postprocess", "psds", "event_scores", "chunking", "outputs", "events")
READERS = {"data_util.audio", "data_util.audio_file", "data_util.channels"}  # of impulse responses
HDF5 = {"data_util.hdf5_output", "data_util.hdf5_dataset"}
LABELS = (
    {f"data_util.{name}" for name in ("labels", "label_files", "audio_folders", "clip_names", "tables", "times")}
    | READERS
    | HDF5
)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(p): p for p in [*ROOT.glob("*.py"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.py"))]}
SCRIPTS = {name for name in MODULES if "." not in name and 'if __name__ == "__main__"' in MODULES[name].read_text()}


@cache
def imported(name: str) -> frozenset[str]:
    """What a module imports, at its top or inside functions: modules of the project, and packages of others."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            below = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= below or {node.module}
    return frozenset(module if module in MODULES else module.partition(".")[0] for module in found)


def of_project(name: str) -> set[str]:
    return {module for module in imported(name) if module in MODULES}


def in_folder(folder: str) -> list[str]:
    return [name for name in MODULES if name.partition(".")[0] == folder]


@pytest.mark.parametrize("name", MODULES)
def test_nothing_imports_a_script(name: str) -> None:
    assert not imported(name) & SCRIPTS


def test_the_ground_stands_on_the_standard_library() -> None:
    for name in GROUND:
        assert of_project(name) <= GROUND
        assert not imported(name) & {"torch", "numpy", "pytorch_lightning"}
    assert of_project("config") <= GROUND and not imported("config") & {"torch", "numpy"}


@pytest.mark.parametrize("name", in_folder("models"))
def test_models_know_torch_errors_and_themselves(name: str) -> None:
    assert all(module in ("errors", "locks") or module.startswith("models") for module in of_project(name))
    assert "pytorch_lightning" not in imported(name)


@pytest.mark.parametrize("name", in_folder("data_util"))
def test_data_knows_neither_models_nor_helpers(name: str) -> None:
    assert all(module in GROUND or module.startswith("data_util") for module in of_project(name))
    assert "pytorch_lightning" not in imported(name)


def reached(name: str) -> set[str]:
    """All modules of the project that importing this one loads or may load later."""
    found: set[str] = set()
    todo = [name]
    while todo:
        new = of_project(todo.pop()) - found
        found |= new
        todo += new
    return found


PURE_MODULES = [name for name in in_folder("helpers") if name.partition(".")[2].startswith(PURE)]


@pytest.mark.parametrize("name", PURE_MODULES)
def test_pure_helpers_know_labels_names_and_each_other(name: str) -> None:
    assert "pytorch_lightning" not in imported(name)
    others = {module for module in reached(name) if not module.startswith(("helpers", "data_util"))}
    assert others <= GROUND
    assert {module for module in of_project(name) if module.startswith("data_util")} <= LABELS


def test_the_rules_are_about_something() -> None:
    assert len(PURE_MODULES) > 15 and {"ex_audioset_strong", "inference", "complexity"} <= SCRIPTS
    assert imported("helpers.psds_io") >= {"data_util.labels", "data_util.label_files"} and "torch" in imported(
        "models.mel"
    )
