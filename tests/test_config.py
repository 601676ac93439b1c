"""Options: defaults that users rely on, the way from command line and YAML to dataclass, no dead options."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import config
from config_clipwise import DownstreamOptions
from config_downstream import DcaseOptions
from config_finetune import FinetuneOptions
from errors import UserError

ROOT = Path(__file__).parents[1]

WATCHED = [config.StrongOptions, config.WeakOptions, config.OnlineOptions]  # by tests/scripts/test_options_are_read.py
SCRIPTS = [*WATCHED, DownstreamOptions, DcaseOptions]

PUBLISHED_DEFAULTS = {  # of the training script on AudioSet Strong
    "experiment_name": "as_strong",
    "batch_size": 64,
    "accumulate_grad_batches": 4,
    "num_workers": 16,
    "num_devices": 1,
    "precision": "16",
    "evaluate": False,
    "check_val_every_n_epoch": 5,
    "model_name": "fmn10",
    "pretrained": "weak",
    "seq_model_type": None,
    "seq_model_dim": 256,
    "n_epochs": 120,
    "use_balanced_sampler": False,
    "epoch_len": 100_000,
    "median_window": 9,
    "distillation_loss_weight": 0.0,
    "pseudo_labels_file": None,
    "wavmix_p": 0.5,
    "freq_warp_p": 0.0,
    "filter_augment_p": 0.0,
    "frame_shift_range": 0.125,
    "mixup_p": 0.3,
    "mixstyle_p": 0.0,
    "max_time_mask_size": 0.0,
    "adamw": False,
    "weight_decay": 0.0,
    "max_lr": 8e-4,
    "seq_lr": None,
    "lr_decay": 0.9,
    "lr_end": 2e-7,
    "warmup_steps": 5000,
    "schedule_mode": "cos",
}


def test_published_defaults() -> None:
    options = config.parse(config.StrongOptions, [])
    assert {name: getattr(options, name) for name in PUBLISHED_DEFAULTS} == PUBLISHED_DEFAULTS


CHECKS = {"check", "check_common", "__post_init__"}  # they look at options without doing what these are for


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules_of(script: str) -> set[Path]:
    """The files of this repository that a script imports, at once or later, directly or through others."""
    found: set[Path] = set()
    waiting = [ROOT / f"{script}.py"]
    while waiting:
        path = waiting.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{name}" for name in names)]
            for name in names:
                place = ROOT.joinpath(*name.split("."))
                waiting += [place.with_suffix(".py"), place / "__init__.py"]
    return found


class Readers(ast.NodeVisitor):
    """Collects the options that code reads: `options.NAME`, `o.NAME`, in their own classes `self.NAME`, and getattr of
    listed names; but no checks."""

    def __init__(self) -> None:
        self.read: set[str] = set()
        self.owners = {"options", "o"}

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outside = self.owners
        if node.name.endswith(("Options", "WhichModels")):
            self.owners = {*outside, "self"}
        self.generic_visit(node)
        self.owners = outside

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in CHECKS:
            return
        calls = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
        if any(isinstance(call.func, ast.Name) and call.func.id == "getattr" for call in calls):
            self.read |= {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        if owner in self.owners and isinstance(node.ctx, ast.Load):
            self.read.add(node.attr)
        self.generic_visit(node)


def options_read_by(script: str) -> set[str]:
    """Names of the options that the modules of a script read."""
    readers = Readers()
    for path in modules_of(script):
        readers.visit(tree(path))
    return readers.read


@pytest.mark.parametrize(
    ("script", "cls"),
    [
        ("ex_downstream", "config_clipwise.DownstreamOptions"),
        ("ex_dcase2016task2", "config_downstream.DcaseOptions"),
        ("ex_finetune", "config_finetune.FinetuneOptions"),
        ("inference", "inference.InferenceOptions"),
        ("export", "export.ExportOptions"),
        ("complexity", "complexity.ComplexityOptions"),
        ("make_pseudo_labels", "make_pseudo_labels.PseudoLabelOptions"),
        ("web", "web.WebOptions"),
    ],
)
def test_every_option_is_read_by_its_script(script: str, cls: str) -> None:
    """Each field is read in the modules that its own script imports, outside of what checks or copies all options."""
    module, _, name = cls.partition(".")
    fields = {f.name for f in dataclasses.fields(getattr(importlib.import_module(module), name))}
    only_checked = {
        "complexity": {"overwrite"},  # to refuse files that exist is all it is for
        "web": {"thresholds"},  # handed to Detector, whose argument of that name reads it
    }.get(script, set())
    assert fields - options_read_by(script) == only_checked


def test_an_option_that_nothing_reads_is_noticed() -> None:
    """Neither a word in a text, nor another object's attribute, nor a check is a reader."""
    code = "def check(self): self.a\ndef f(options): return options.b, 'c', other.d, self.options.e\n"
    readers = Readers()
    readers.visit(ast.parse(code))
    assert readers.read == {"b", "e"}


@pytest.mark.parametrize("cls", [*SCRIPTS, FinetuneOptions])
def test_every_option_has_a_help_text(cls: type) -> None:
    text = config.build_parser(cls).format_help()
    for f in dataclasses.fields(cls):
        assert f.metadata["help"], f.name
        assert f"--{f.name}" in text or f"--no_{f.name}" in text


def test_yaml_beneath_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("batch_size: 8\nadamw: true\nseq_model_type: gru\n")
    options = config.parse(config.StrongOptions, ["--config", str(path), "--batch_size=4"])
    assert (options.batch_size, options.adamw, options.seq_model_type) == (4, True, "gru")
    assert options.given == {"batch_size", "adamw", "seq_model_type"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch_sise: 8", "did you mean --batch_size"),
        ("batch_size: 0", "at least 1"),
        ("batch_size: 1.5", "whole number"),
        ("batch_size: 1.0e+30", "between 1 and 2,147,483,647"),
        ("batch_size: true", "whole number"),
        ("batch_size:", "--batch_size is empty"),
        ("max_lr: [1, 2]", "--max_lr is .1, 2.: must be a number"),
        ("max_lr: {a: 1}", "must be a number"),
        ("max_lr: .nan", "finite and above 0"),
        ("seed: .inf", "whole number"),
        ("seed: 4294967296", "between 0 and 4,294,967,295"),
        ("experiment_name: no", "must be text"),
        ("experiment_name: [a]", "must be text"),
        ("experiment_name: ''", "must be text"),
        ('data_dir: "a\\0b"', "must be a path"),
        ("1: 2", "unknown option --1"),
        ("seed: 2026-99-99", "not valid YAML"),
        ("adamw: maybe", "true or false"),
        ("adamw: 1", "true or false"),
        ("- 1", "option: value"),
        ("a: [", "not valid YAML"),
    ],
)
def test_bad_yaml_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as error:
        config.parse(config.StrongOptions, ["--config", str(path)])
    assert "\n" not in str(error.value)


def test_one_value_is_a_list_of_one(tmp_path: Path) -> None:
    @dataclasses.dataclass
    class Options:
        """Options."""

        thresholds: list[float] = config.option([0.1], "several", low=0, high=1)

    path = tmp_path / "run.yaml"
    path.write_text("thresholds: 0.5\n")
    assert config.parse(Options, ["--config", str(path)]).thresholds == [0.5]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--max_lr=0", "must be above 0"),
        ("--max_lr=inf", "--max_lr is inf: must be finite and above 0"),
        ("--seq_lr=-1", "--seq_lr is -1.0: must be above 0"),
        ("--checkpoint_minutes=inf", "finite"),
        ("--bn_momentum=0", "above 0"),
        ("--bn_momentum=1.5", "at most 1"),
        ("--ema=1", "--ema is 1.0: must be at least 0 and below 1"),
        ("--seed=99999999999999999999", "between 0 and 4,294,967,295"),
        ("--n_epochs=99999999999999999999", "between 1 and 2,147,483,647"),
        ("--data_dir=", "must be a path"),
        ("--experiment_name=", "must be text"),
        ("--experiment_name=a/b", "plain name"),
        ("--experiment_name=a\nb", "plain name"),
        ("--experiment_name=..", "plain name"),
        ("--experiment_name=" + "é" * 150, "200 characters"),
        ("--experiment_name=taken", "is a file"),
        ("--output_dir=taken", "a folder is meant"),
        ("--output_dir=taken/below", "a folder is meant"),
    ],
)
def test_bad_options_are_refused(argument: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").touch()
    where = [] if argument.startswith("--output_dir") else [f"--output_dir={tmp_path}"]
    name = argument.partition("=")[0].removeprefix("--")
    for cls in [cls for cls in (*SCRIPTS, FinetuneOptions) if name in {f.name for f in dataclasses.fields(cls)}]:
        with pytest.raises(UserError, match=words) as error:
            config.parse(cls, [*where, argument])
        assert argument.partition("=")[0] in str(error.value) and len(str(error.value)) < 500


def test_round_trip_through_yaml(tmp_path: Path) -> None:
    options = config.parse(config.StrongOptions, ["--adamw", "--weight_decay=0.01", "--data_dir=x y", "--seq_lr=1e-3"])
    config.write_yaml(options, tmp_path / "config.yaml")
    assert config.parse(config.StrongOptions, ["--config", str(tmp_path / "config.yaml")]) == options


def test_what_one_call_asks_for_is_no_part_of_the_experiment(tmp_path: Path) -> None:
    options = config.parse(config.StrongOptions, ["--evaluate", "--overwrite", "--batch_size=3"])
    config.write_yaml(options, tmp_path / "config.yaml")
    written = config.read_yaml(tmp_path / "config.yaml")
    assert written["batch_size"] == 3
    assert not {"resume", "evaluate", "overwrite"} & written.keys()


def test_config_files_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: Path, *args: object, **kwargs: object) -> int:
        self.write_bytes(b"half")
        raise OSError("no space left on device")

    path = tmp_path / "config.yaml"
    config.write_yaml(config.parse(config.StrongOptions, []), path)
    before = path.read_bytes()
    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        config.write_yaml(config.parse(config.StrongOptions, ["--seed=1"]), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_switches_have_opposites() -> None:
    parse = config.parse
    assert parse(config.StrongOptions, ["--no_save_model"]).save_model is False
    assert parse(config.StrongOptions, ["--adamw", "--no_adamw"]).adamw is False


def test_help_does_not_import_torch() -> None:
    """Help and refusals come at once; importing torch takes seconds."""
    code = (
        "import sys, ex_audioset_strong\n"
        "try: ex_audioset_strong.main(['--mixup_p=2'])\n"
        "except SystemExit as stop: assert stop.code == 2\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
