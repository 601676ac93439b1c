"""The clip-wise tasks: each kind of loss learns, folds go on where they stopped, mistakes are one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch

import config
import ex_downstream
from config_clipwise import DownstreamOptions
from data_util.downstream import TASKS
from models import create_model
from models.checkpoints import METADATA_KEY
from tests import mel_probe

Folder = Callable[[str], Path]

COMMON = ["--num_workers=0", "--logger=none", "--accelerator=cpu"]
MODEL = [f"--model_name={mel_probe.NAME}", "--pretrained=scratch"]
SHORT = ["--clip_seconds=2", "--batch_size=4", "--max_lr=1e-2", "--warm_up_len=0", "--ramp_down_start=20"]


@pytest.fixture(autouse=True)
def _probe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mel_probe.register(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("helpers.run_folder.draw_curves", lambda rows, path: None)  # takes longer than an epoch here


def run(task: str, folder: Path, *argv: str) -> dict[str, Any]:
    """Run the script; the figures it wrote to runs/downstream."""
    ex_downstream.main([f"--task={task}", f"--data_dir={folder}", "--overwrite", *COMMON, *argv])
    return json.loads(Path("runs/downstream/metrics.json").read_text())


@pytest.mark.parametrize(
    ("task", "figure", "at_least"),  # by chance: accuracy 0.1, area 0.5
    [("esc50", "accuracy", 0.7), ("tau2020", "accuracy", 0.7), ("fsd50k", "auroc", 0.6), ("openmic", "auroc", 0.65)],
)
def test_each_loss_learns(
    clipwise_dir: Folder, task: str, figure: str, at_least: float, capsys: pytest.CaptureFixture[str]
) -> None:
    fold = ["--fold=2"] if task == "esc50" else []
    figures = run(task, clipwise_dir(task), *MODEL, *SHORT, *fold, "--n_epochs=3", "--mixup_p=0.5", "--wavmix_p=0.3")
    assert figures[figure] >= at_least
    assert TASKS[task].metric in figures
    per_class = "accuracy_per_class" if figure == "accuracy" else "ap_per_class"
    assert fmean(figures[per_class].values()) == pytest.approx(figures.get("macro_accuracy", figures.get("mAP")))
    assert ("accuracy_per_group" in figures) == (task == "tau2020")
    assert f"{TASKS[task].title}" in Path("runs/downstream/MODEL_CARD.md").read_text()

    evaluated = ["--evaluate", "--checkpoint=runs/downstream/last.ckpt", "--clip_seconds=2", "--experiment_name=again"]
    if task == "esc50":  # another fold, which it has learnt
        with pytest.raises(SystemExit):
            ex_downstream.main([f"--task={task}", f"--data_dir={clipwise_dir(task)}", *COMMON, *evaluated, "--fold=3"])
        assert "--fold is 3: --checkpoint runs/downstream/last.ckpt was trained on it" in capsys.readouterr().err
    if task != "fsd50k":  # its test clips are scored by the best checkpoint
        ex_downstream.main([f"--task={task}", f"--data_dir={clipwise_dir(task)}", *COMMON, *fold, *evaluated])
        again = json.loads(Path("runs/again/metrics.json").read_text())
        assert again["loss"] == pytest.approx(figures["loss"], abs=1e-5)
        assert again[figure] == pytest.approx(figures[figure], abs=1e-6)


def test_a_task_with_test_clips_scores_them_with_the_best_checkpoint(clipwise_dir: Folder) -> None:
    figures = run("fsd50k", clipwise_dir("fsd50k"), *MODEL, *SHORT, "--n_epochs=2", "--check_val_every_n_epoch=1")
    best = torch.load("runs/downstream/best.ckpt", weights_only=True)
    assert best[METADATA_KEY]["weak_labels"][:2] == ["White_noise", "Hiss"]
    argv = ["--evaluate", "--checkpoint=runs/downstream/best.ckpt", "--clip_seconds=2", "--experiment_name=again"]
    ex_downstream.main(["--task=fsd50k", f"--data_dir={clipwise_dir('fsd50k')}", *COMMON, *argv])
    again = json.loads(Path("runs/again/metrics.json").read_text())
    assert again["ap_per_class"] == pytest.approx(figures["ap_per_class"])
    history = Path("runs/downstream/metrics.csv").read_text()
    assert "val/mAP" in history  # of the validation clips, which are others
    assert f"{figures['loss']:.6f}"[:8] not in history


def test_all_folds_go_on_where_they_stopped(clipwise_dir: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = [*MODEL, *SHORT, "--n_epochs=1", "--no_save_model"]
    figures = run("esc50", clipwise_dir("esc50"), *argv)
    folds = [figures["folds"][f"fold {k}"]["accuracy"] for k in range(1, 6)]
    assert figures["accuracy"] == pytest.approx(fmean(folds)) and figures["accuracy_std"] == pytest.approx(stdev(folds))
    parts = sorted(path.name for path in Path("runs/downstream").iterdir() if path.is_dir())
    assert parts == [f"downstream-fold{k}" for k in range(1, 6)]
    own = config.read_yaml(Path("runs/downstream/downstream-fold3/config.yaml"))
    assert (own["fold"], own["max_lr"]) == ("3", 1e-2)

    shutil.rmtree("runs/downstream/downstream-fold4")
    trained = []
    train = ex_downstream.train
    monkeypatch.setattr(ex_downstream, "train", lambda options: trained.append(options.fold) or train(options))
    ex_downstream.main(["--resume", "runs/downstream", *COMMON])
    assert trained == ["4"]
    again = json.loads(Path("runs/downstream/metrics.json").read_text())
    with pytest.raises(SystemExit):  # what has been learnt so far was learnt with another
        ex_downstream.main(["--resume", "runs/downstream", "--max_lr=1e-3", *COMMON])
    assert again["accuracy"] == pytest.approx(figures["accuracy"]) and again["folds"].keys() == figures["folds"].keys()


def test_resumed_training_equals_the_uninterrupted_one(clipwise_dir: Folder) -> None:
    argv = [*MODEL, *SHORT, "--fold=1", "--mixup_p=0.5", "--wavmix_p=0.3", "--clip_seconds=1"]
    whole = run("esc50", clipwise_dir("esc50"), *argv, "--n_epochs=3")
    run("esc50", clipwise_dir("esc50"), *argv, "--n_epochs=2")
    ex_downstream.main(["--resume", "runs/downstream", "--n_epochs=3", *COMMON])
    resumed = json.loads(Path("runs/downstream/metrics.json").read_text())
    assert resumed["loss"] == pytest.approx(whole["loss"], abs=1e-6)


def test_a_checkpoint_with_other_classes_keeps_its_backbone(
    clipwise_dir: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model("fmn01", n_classes_weak=527)
    torch.save({"state_dict": model.state_dict(), METADATA_KEY: model.metadata()}, "tags.ckpt")
    argv = ["--checkpoint=tags.ckpt", "--max_lr=1e-9", "--batch_size=20", "--clip_seconds=1"]
    run("esc50", clipwise_dir("esc50"), "--fold=1", "--n_epochs=1", *argv)
    printed = capsys.readouterr().out
    assert "left at initialisation: weak_head.bias, weak_head.weight" in printed
    assert "527 classes in the file, 10 in the model" in printed
    tuned = torch.load("runs/downstream/last.ckpt", weights_only=True)["state_dict"]
    key = "model.fmn.features.0.0.weight"
    torch.testing.assert_close(tuned[f"model.{key}"], model.state_dict()[key], atol=1e-6, rtol=0)
    assert tuned["model.weak_head.weight"].shape[0] == 10


def test_a_head_for_other_classes_is_not_taken(clipwise_dir: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """ESC-50's generated set and TAU have ten classes each."""
    argv = [*SHORT, "--n_epochs=1", "--clip_seconds=1", "--max_lr=1e-9"]
    run("tau2020", clipwise_dir("tau2020"), *MODEL, *argv)
    start = torch.load("runs/downstream/last.ckpt", weights_only=True)["state_dict"]["model.weak_head.weight"]
    for task, argv_of, taken in (("esc50", ["--fold=1"], False), ("tau2020", [], True)):
        own = [*argv, *argv_of, "--checkpoint=runs/downstream/last.ckpt", f"--experiment_name={task}", "--seed=1"]
        ex_downstream.main([f"--task={task}", f"--data_dir={clipwise_dir(task)}", *COMMON, *own])
        head = torch.load(f"runs/{task}/last.ckpt", weights_only=True)["state_dict"]["model.weak_head.weight"]
        assert torch.allclose(head, start, atol=1e-6) == taken
        assert ("its 10 classes are others" in capsys.readouterr().out) != taken


# ---- options and mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "batch_size", "max_lr", "seconds"),
    [("esc50", 128, 6e-5, 5), ("tau2020", 64, 8e-4, 10), ("fsd50k", 64, 7e-5, 10), ("openmic", 64, 1e-5, 10)],
)
def test_published_defaults(task: str, batch_size: int, max_lr: float, seconds: float) -> None:
    options = config.parse(DownstreamOptions, [f"--task={task}", "--data_dir=DIR"])
    assert (options.batch_size, options.max_lr, options.clip_seconds) == (batch_size, max_lr, seconds)
    assert (options.n_epochs, options.warm_up_len, options.ramp_down_start, options.ramp_down_len) == (80, 10, 10, 65)
    assert (options.last_lr_value, options.mixup_alpha, options.gain_db) == (0.01, 0.3, 12)
    assert len(options.folds) == (5 if task == "esc50" else 1)
    given = config.parse(DownstreamOptions, [f"--task={task}", "--data_dir=DIR", "--max_lr=1e-3", "--batch_size=2"])
    assert (given.batch_size, given.max_lr) == (2, 1e-3)


@pytest.mark.parametrize(
    ("argv", "mixup_p"), [([], 1.0), (["--mixstyle_p=0.4"], 0.0), (["--mixstyle_p=0.4", "--mixup_p=0.5"], 0.5)]
)
def test_mixstyle_comes_in_place_of_mixup(argv: list[str], mixup_p: float) -> None:
    assert config.parse(DownstreamOptions, ["--task=tau2020", "--data_dir=DIR", *argv]).mixup_p == mixup_p


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--data_dir=ESC"], ["--task", "esc50", "openmic"]),
        (["--task=esc51", "--data_dir=ESC"], ["--task", "esc51", "esc50"]),
        (["--task=esc50"], ["--data_dir", "ESC-50"]),
        (
            ["--task=esc50", "--data_dir=nowhere"],
            ["--data_dir", "nowhere", "expected a folder, got a path that does not exist"],
        ),
        (["--task=esc50", "--data_dir=ESC", "--fold=6"], ["--fold", "6", "1, 2, 3, 4, 5, or all"]),
        (["--task=tau2020", "--data_dir=ESC", "--fold=2"], ["--fold", "2", "tau2020 has 1"]),
        (["--task=tau2020", "--data_dir=ESC"], ["fold1_train.csv", "expected a file", "does not exist"]),
        (["--task=esc50", "--data_dir=ESC", "--evaluate"], ["--fold", "all", "not trained on"]),
        (["--task=esc50", "--data_dir=ESC", "--fold=1", "--evaluate"], ["--evaluate", "--checkpoint"]),
        (["--task=esc50", "--data_dir=ESC", "--fold=1", "--evaluate", "--checkpoint=w.pt"], ["w.pt", "10 classes"]),
        (["--task=esc50", "--data_dir=ESC", "--clip_seconds=0.1"], ["--clip_seconds", "0.1"]),
        (["--resume=nowhere"], ["--resume", "nowhere"]),
    ],
)
def test_mistakes_are_one_line(
    clipwise_dir: Folder, argv: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weight": torch.zeros(1)}, "w.pt")
    with pytest.raises(SystemExit) as stop:
        ex_downstream.main([*(word.replace("ESC", str(clipwise_dir("esc50"))) for word in argv), *COMMON, *MODEL])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and all(word in lines[0] for word in words), lines
