"""Stopping and going on: at any moment, to the same end; and never into another run."""

from __future__ import annotations

import csv
import errno
import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

import ex_audioset_strong
import ex_audioset_strong_online_distillation as online
import ex_audioset_weak
from helpers.event_scores import StrongEvaluator
from helpers.lit_module import SEDModule
from models import create_model

Run = Callable[..., Path]


def train(data_dir: Path, output_dir: Path, name: str, *more: str) -> Path:
    """Train two short epochs, or go on with them; gives the folder of the run."""
    place = [f"--data_dir={data_dir}", f"--output_dir={output_dir}", f"--experiment_name={name}"]
    ex_audioset_strong.main([*place, "--num_workers=0", "--logger=none", "--accelerator=cpu", *more])
    return output_dir / name


def new_training(folder: Path) -> list[str]:
    """Options of a run that starts from a file of weights."""
    torch.manual_seed(0)
    torch.save(create_model("fmn04").state_dict(), folder / "weights.pt")
    steps = ["--batch_size=2", "--accumulate_grad_batches=1", "--n_epochs=2", "--check_val_every_n_epoch=1"]
    return [f"--checkpoint={folder / 'weights.pt'}", "--model_name=fmn04", "--ema=0.5", *steps]


@pytest.fixture
def run(tiny_dir: Path, tmp_path: Path) -> Run:
    return functools.partial(train, tiny_dir, tmp_path)


@pytest.fixture
def training(tmp_path: Path) -> list[str]:
    return new_training(tmp_path)


@pytest.fixture(scope="module")
def whole(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    return train(tiny_dir, folder, "whole", *new_training(folder))


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def interrupted_in(monkeypatch: pytest.MonkeyPatch, step: str, epoch: int, batch: int) -> None:
    """Let Ctrl-C come once while a batch is worked on."""
    original, asked = getattr(SEDModule, step), []

    def stepped(self: SEDModule, batch_of_step: Any, batch_idx: int, *more: Any) -> Any:
        if (self.current_epoch, batch_idx) == (epoch, batch) and not asked:
            asked.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch_of_step, batch_idx, *more)

    monkeypatch.setattr(SEDModule, step, stepped)


def full_disk(monkeypatch: pytest.MonkeyPatch, names: str, while_true: Callable[[], bool]) -> None:
    """Let no checkpoint with a name like this be written as long as something is true."""
    fsync = os.fsync

    def full(fd: int) -> None:
        if re.search(rf"/\.({names})\.ckpt", os.readlink(f"/proc/self/fd/{fd}")) and while_true():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells files apart as Linux shows them")
def test_the_best_state_is_kept_until_there_is_room(
    run: Run, training: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the first validation, whose state is the best (both score 0); then there is room."""
    tried: list[bool] = []
    full_disk(monkeypatch, "best", lambda: (tried.append(True), len(tried) < 3)[1])
    got = run("full", *training)
    best, last = (torch.load(got / name, weights_only=True) for name in ("best.ckpt", "last.ckpt"))
    assert len(tried) == 3 and best["epoch"] == 0 and last["epoch"] == 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells files apart as Linux shows them")
@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("best|last", "best.ckpt and last.ckpt could not be written to {} (No space left on device); make room and tr"),
        ("best", "best.ckpt could not be written to {} (No space left on device); the last state is in {}/last.ckpt"),
    ],
)
def test_a_training_whose_states_are_not_on_disk_has_failed(
    run: Run,
    training: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    names: str,
    words: str,
) -> None:
    full_disk(monkeypatch, names, lambda: True)
    with pytest.raises(SystemExit) as stop:
        run("full", *training)
    assert stop.value.code == 2
    last = capsys.readouterr().err.rstrip().splitlines()[-1]
    folder = tmp_path / "full"
    assert last.startswith(f"error: the training has ended, but {words.format(folder, folder)}")
    assert (folder / "last.ckpt").exists() == (names == "best") and not (folder / "best.ckpt").exists()


@pytest.mark.parametrize("n_written", [0, 4], ids=["from the start", "midway"])
def test_a_tracker_without_room_does_not_end_the_training(
    run: Run,
    training: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    n_written: int,
) -> None:
    """The states are on another disk, and kept; the tracker is one line of the log."""
    module = pytest.importorskip("tensorboard.summary.writer.record_writer")
    write, tried = module.RecordWriter.write, []

    def full_later(self: Any, data: bytes) -> None:
        tried.append(True)
        if len(tried) > n_written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, data)

    monkeypatch.setattr(module.RecordWriter, "write", full_later)
    folder = run("tracked", *training, "--n_epochs=1", "--logger=tensorboard")
    assert len(tried) == n_written + 1 and history(folder)
    assert {path.name for path in folder.glob("*.ckpt")} == {"best.ckpt", "last.ckpt"}
    told = [line for line in (folder / "run.log").read_text(encoding="utf-8").splitlines() if "given up" in line]
    assert len(told) == 1 and f"{folder / 'tensorboard'}: the disk is full; make room" in told[0]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("step", "epoch", "batch"),
    [("validation_step", 0, 0), ("validation_step", 1, 1), ("training_step", 0, 2), ("training_step", 1, 1)],
    ids=["in the validation", "in the last validation", "in the last batch", "in the last epoch"],
)
def test_interrupted_at_any_moment(
    whole: Path,
    run: Run,
    training: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    step: str,
    epoch: int,
    batch: int,
) -> None:
    """Ctrl-C, then --resume alone: the same figures of each epoch and the same weights as without."""
    interrupted_in(monkeypatch, step, epoch, batch)
    with pytest.raises(SystemExit) as stop:
        run("stopped", *training)
    assert stop.value.code == 130
    (tmp_path / "weights.pt").unlink()  # a run that goes on does not need what it started from
    got = run("stopped", "--resume")
    assert history(got) == history(whole)
    assert len(history(got)) == 2 and all(row["val/psds1"] and row["train/loss"] for row in history(got))
    first, second = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (whole, got))
    for weights in ("state_dict", "current_model_state"):
        assert all(torch.equal(first[weights][key], second[weights][key]) for key in first[weights])
    assert json.loads((got / "metrics.json").read_text())["val/psds1"] == float(history(whole)[1]["val/psds1"])


def test_only_what_fits_goes_on(
    run: Run, training: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each refusal is one line, and leaves the run as it was; more epochs are no other run."""
    folder = run("done", *training, "--n_epochs=1")
    written = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert not {"resume", "evaluate", "overwrite"} & yaml.safe_load(written["config.yaml"]).keys()
    (tmp_path / "cut.ckpt").write_bytes(written["last.ckpt"][:5000])
    capsys.readouterr()
    for options, words in (
        ([f"--resume={folder}"], "all its 1 epochs"),
        ([f"--resume={folder}", "--n_epochs=2", "--max_lr=0.5"], "--max_lr is 0.5"),
        ([f"--resume={folder}", "--n_epochs=2", "--batch_size=3"], "--batch_size is 3"),
        ([f"--resume={folder}", "--n_epochs=2", "--model_name=fmn06"], "--model_name is fmn06"),
        ([f"--resume={folder}", "--n_epochs=2", "--adamw", "--weight_decay=0.1"], "is "),
        ([f"--resume={tmp_path / 'weights.pt'}"], "no state of a training"),
        ([f"--resume={tmp_path / 'cut.ckpt'}"], "cannot be read"),
        (["--resume", "--experiment_name=don"], "expected a run of this name"),
    ):
        with pytest.raises(SystemExit) as stop:
            run("done", *options)
        lines = capsys.readouterr().err.strip().splitlines()
        assert stop.value.code == 2 and len(lines) == 1 and words in lines[0], lines
        assert written == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    run("done", "--resume", "--n_epochs=2")
    assert [row["epoch"] for row in history(folder)] == ["0", "1"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["n_epochs"] == 2


def test_overwriting_leaves_nothing_to_resume_by_mistake(run: Run, training: list[str]) -> None:
    folder = run("again", *training, "--n_epochs=1")
    (folder / "step_00000099.ckpt").write_bytes(b"of another run")
    run("again", *training, "--n_epochs=1", "--overwrite")
    assert sorted(path.name for path in folder.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]


def test_the_last_checkpoint_knows_the_best(run: Run, training: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a resumed run would take a worse state for the best one."""

    compute, calls = StrongEvaluator.compute_over_processes, iter(range(9))

    def better_each_time(self: StrongEvaluator) -> dict[str, Any]:
        return compute(self) | {"psds1_macro_averaged": next(calls) / 10}

    monkeypatch.setattr(StrongEvaluator, "compute_over_processes", better_each_time)
    callbacks = torch.load(run("rising", *training) / "last.ckpt", weights_only=True)["callbacks"].values()
    scores = [state["best_model_score"] for state in callbacks if state.get("best_model_score") is not None]
    assert scores == [pytest.approx(0.1)]


KILL = """
import importlib, os, signal, sys
from helpers.lit_module import SEDModule

step = SEDModule.training_step

def killed(self, batch, batch_idx):
    if (self.current_epoch, batch_idx) == (1, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)

SEDModule.training_step = killed
importlib.import_module(sys.argv[1]).main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    ("script", "loss"),
    [
        (ex_audioset_weak, ["--ramp_down_start=0", "--wavmix_p=0.5", "--freq_mask_bins=16"]),
        (online, ["--online_distillation_loss_weight=0", "--weak_supervised_loss_weight=0.5", "--warmup_steps=2"]),
    ],
)
def test_killed_with_weak_clips(script: ModuleType, loss: list[str], tiny_dir: Path, tmp_path: Path) -> None:
    """SIGKILL within the second epoch, then --resume alone: the same figures and weights as without."""
    place = [f"--data_dir={tiny_dir}", f"--output_dir={tmp_path}", "--num_workers=0", "--logger=none"]
    cpu = ["--accelerator=cpu", "--checkpoint_minutes=1e-6", "--epoch_len=6"]
    steps = [*new_training(tmp_path), "--check_val_every_n_epoch=2"]
    script.main([*place, *cpu, *steps, *loss, "--experiment_name=whole"])
    command = [sys.executable, "-c", KILL, script.__name__, *place, *cpu, *steps, *loss, "--experiment_name=killed"]
    root = Path(ex_audioset_strong.__file__).parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "killed" / "step_00000004.ckpt").is_file()
    script.main([*place, "--experiment_name=killed", "--resume"])
    first, second = (tmp_path / "whole", tmp_path / "killed")
    assert history(first) == history(second) and len(history(first)) == 2
    weights = [torch.load(run / "last.ckpt", weights_only=True)["state_dict"] for run in (first, second)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
