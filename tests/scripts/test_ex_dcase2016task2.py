"""DCASE 2016 task 2: the published command lines, figures that the written events confirm, resume, wrong options."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import config
import ex_dcase2016task2
from config_downstream import DcaseOptions
from data_util import dcase2016task2
from data_util.dcase2016task2 import Crops, Pieces
from data_util.synthetic_layouts import LayoutRequest, make_layout
from helpers.lit_dcase import DcaseModule, logit_threshold
from helpers.onset_scores import score_events
from models import create_model, load_model
from models.registry import Backbone
from tests.models.tiny_transformers import serve_released

LOW = 0.02
SHORT = ["--num_workers=0", "--logger=none", "--accelerator=cpu", "--checkpoint_minutes=0"]
SMALL = ["--model_name=fmn04", "--pretrained=scratch", "--batch_size=2", "--max_lr=3e-3", "--schedule_mode=exp", *SHORT]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dcase") / "task"
    make_layout(folder, LayoutRequest("dcase2016task2", train=1, eval=2, seconds=12.0, seed=3))
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_crops() -> Iterator[None]:
    """Four crops per file and epoch, in place of twelve."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dcase2016task2, "CROPS_PER_FILE", 4)
        yield


@pytest.fixture(scope="module")
def trained(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two epochs, which learns little; the threshold makes up for it."""
    folder = tmp_path_factory.mktemp("runs")
    epochs = ["--n_epochs=2", f"--threshold={LOW}", "--experiment_name=run"]
    ex_dcase2016task2.main([f"--task_path={task}", f"--output_dir={folder}", *SMALL, *epochs])
    return folder / "run"


def figures_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


def test_written_events_give_the_written_figures(task: Path, trained: Path) -> None:
    """JSON in milliseconds and TSV in seconds hold the same events; scored again they give the same figures."""
    figures = figures_of(trained)
    test = Pieces(task, "test")
    written = json.loads((trained / "test_predictions.json").read_text())
    assert list(written) == test.names
    events = {
        name: [(e["start"] / 1000, e["end"] / 1000, e["label"]) for e in found] for name, found in written.items()
    }
    assert sum(map(len, events.values())) > 0
    with (trained / "test_predictions.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(r["filename"], float(r["onset"]), float(r["offset"]), r["event_label"]) for r in rows] == [
        (name, *event) for name, found in events.items() for event in found
    ]
    again = score_events(test.ground_truth(), events, test.labels)
    for name, value in again.overall.items():
        assert figures[f"test/{name}"] == pytest.approx(value, abs=1e-6)
    assert figures["test_onset_fms_per_class"].keys() == set(test.labels)
    assert (trained / "valid_predictions.json").is_file()


def test_best_checkpoint_scores_the_same_again(task: Path, trained: Path, tmp_path: Path) -> None:
    """It knows its model and its classes; other thresholds give other events."""
    assert list(load_model(trained / "best.ckpt").labels) == Crops(task).labels
    here = [f"--task_path={task}", f"--output_dir={tmp_path}", "--evaluate", f"--checkpoint={trained / 'best.ckpt'}"]
    ex_dcase2016task2.main([*here, *SHORT, f"--threshold={LOW}", "--experiment_name=same"])
    first, second = figures_of(trained), figures_of(tmp_path / "same")
    for split in ("val", "test"):
        assert second[f"{split}/loss"] == pytest.approx(first[f"{split}/loss"], abs=1e-6)
        assert second[f"{split}/onset_fms"] == pytest.approx(first[f"{split}/onset_fms"], abs=1e-6)
    ex_dcase2016task2.main([*here, *SHORT, "--threshold_on=logits", "--experiment_name=published"])
    assert (tmp_path / "published" / "test_predictions.tsv").read_text() != (
        trained / "test_predictions.tsv"
    ).read_text()


def test_resumed_run_ends_with_the_same_weights(task: Path, trained: Path, tmp_path: Path) -> None:
    """One epoch, then another one with new crops, at a constant learning rate."""
    here = [f"--task_path={task}", f"--output_dir={tmp_path}", "--experiment_name=run", f"--threshold={LOW}"]
    ex_dcase2016task2.main([*here, *SMALL, "--n_epochs=1"])
    ex_dcase2016task2.main([f"--resume={tmp_path / 'run'}", "--n_epochs=2"])
    whole, resumed = (torch.load(f / "last.ckpt", weights_only=True)["state_dict"] for f in (trained, tmp_path / "run"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


DEFAULTS = {  # of the published script
    "experiment_name": "DCASE2016Task2", "batch_size": 256, "accumulate_grad_batches": 1, "num_workers": 16,
    "num_devices": 1, "precision": "16", "check_val_every_n_epoch": 10, "model_name": "fmn10", "pretrained": "strong",
    "seq_model_type": None, "seq_model_dim": 256, "n_classes": 11, "n_epochs": 300, "wavmix_p": 0.5, "freq_warp_p": 0,
    "filter_augment_p": 0, "mixstyle_p": 0, "frame_shift_range": 0, "mixup_p": 0.5, "max_time_mask_size": 0,
    "adamw": True, "weight_decay": 1e-3, "backbone_frozen": False, "schedule_mode": "cos", "max_lr": 1.06e-4,
    "backbone_lr": None, "lr_decay": 1.0, "lr_end": 1e-7, "warmup_steps": 100,
}  # fmt: skip


def test_published_defaults() -> None:
    options = config.parse(DcaseOptions, [])
    assert {name: getattr(options, name) for name in DEFAULTS} == DEFAULTS


PUBLISHED = {
    "ATST-F": "--model_name=ATST-F --pretrained=strong --lr_decay=0.95",
    "BEATs": "--model_name=BEATs --pretrained=strong --backbone_frozen --max_lr=2e-1 --mixup_p=0 --wavmix_p=0 "
    "--no_adamw --weight_decay=0 --n_epochs=500",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_command_lines_run(name: str, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As published, but for paths, one epoch, and narrow networks with filled weights in files as released."""
    serve_released(monkeypatch, tmp_path, name)
    argv = [f"--task_path={task}", *PUBLISHED[name].split()]
    assert config.parse(DcaseOptions, argv).n_epochs == (500 if name == "BEATs" else 300)
    here = [f"--output_dir={tmp_path}", *SHORT, "--n_epochs=1"]
    ex_dcase2016task2.main([*argv, *here, "--batch_size=4", "--precision=32"])

    start = create_model(name, pretrained="strong").state_dict()
    tuned = torch.load(tmp_path / "DCASE2016Task2" / "last.ckpt", weights_only=True)["state_dict"]
    moved = {
        key
        for key, value in start.items()
        if not key.startswith(("strong_head", "weak_head")) and not torch.equal(value, tuned[f"model.{key}"])
    }
    assert moved == set() if name == "BEATs" else len(moved) > 10
    assert tuned["model.strong_head.weight"].shape[0] == 11
    assert math.isfinite(figures_of(tmp_path / "DCASE2016Task2")["test/loss"])


def module_of(task: Path, *argv: str) -> DcaseModule:
    options = config.parse(DcaseOptions, [f"--task_path={task}", "--model_name=fmn04", *argv])
    files = Pieces(task, "valid")
    return DcaseModule(create_model("fmn04", labels=files.labels), options, files, files)


def learning_rates(module: DcaseModule, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    monkeypatch.setattr(DcaseModule, "schedule", lambda self, optimizer: None)
    return {group["name"]: group["lr"] for group in module.configure_optimizers()["optimizer"].param_groups}


def test_learning_rates_of_the_layers(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth g of the 17 of fmn has backbone_lr * d ** (17 - g); sequence model and head have max_lr."""
    plain = learning_rates(module_of(task), monkeypatch)
    assert plain == pytest.approx(dict.fromkeys(plain, 1.06e-4))
    decayed = learning_rates(
        module_of(task, "--lr_decay=0.9", "--backbone_lr=1e-3", "--max_lr=0.1", "--weight_decay=0"), monkeypatch
    )
    expected = {f"backbone.depth_{g:02d}": 1e-3 * 0.9 ** (17 - g) for g in range(17)}
    assert decayed == pytest.approx({**expected, "head": 0.1})


def test_frozen_backbone_rests_and_a_new_sequence_model_learns(task: Path) -> None:
    options = config.parse(DcaseOptions, ["--backbone_frozen"])
    files = Pieces(task, "valid")
    model = create_model("fmn04", seq_model_type="gru", seq_model_dim=16, labels=files.labels)
    module = DcaseModule(model, options, files, files)
    assert not any(p.requires_grad for p in model.model.parameters())
    assert all(p.requires_grad for p in (*model.seq_model.parameters(), *model.strong_head.parameters()))
    assert not any(m.training for m in model.model.modules()) and module.model.seq_model.training
    assert isinstance(model.model, Backbone)


@pytest.mark.parametrize(("threshold", "on"), [(0.5, "logits"), (0.5, "probability"), (0.9, "probability")])
def test_thresholds_mean_what_they_say(task: Path, threshold: float, on: str) -> None:
    """Against sigmoid and SciPy's median filter on the scores themselves."""
    from scipy.ndimage import median_filter

    module = module_of(task, f"--threshold={threshold}", f"--threshold_on={on}", "--min_duration_ms=0")
    logits = np.random.default_rng(0).normal(0, 2, (11, 400))
    values = median_filter(logits, size=(1, 6))
    active = (values if on == "logits" else 1 / (1 + np.exp(-values))) > threshold
    frames = np.zeros_like(active)
    for onset, offset, label in module.find_events(logits, module.model.labels):
        frames[module.model.labels.index(label), round(onset * 25 - 0.5) : round(offset * 25 + 0.5)] = True
    assert np.array_equal(frames, active)
    assert logit_threshold(0, "probability") == -math.inf and logit_threshold(1, "probability") == math.inf


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--task_path"),
        (["--task_path=/nowhere"], "expected a folder, got a path that does not exist"),
        (["--task_path=TASK", "--n_classes=12"], "--n_classes is 12: labelvocabulary.csv has 11 classes"),
        (["--task_path=TASK", "--threshold=2"], "--threshold_on=logits"),
        (["--task_path=TASK", "--evaluate"], "--checkpoint"),
        (["--task_path=TASK", "--no_adamw"], "--weight_decay"),
        (["--task_path=TASK", "--evaluate", "--checkpoint=FOREIGN"], "its classes are not those of"),
    ],
)
def test_wrong_options_are_one_line(argv: list[str], message: str, task: Path, tmp_path: Path, capsys) -> None:
    foreign = tmp_path / "foreign.pt"
    model = create_model("fmn04", labels=list("abcdefghijk"))
    torch.save({"state_dict": model.state_dict(), "efficientsed": model.metadata()}, foreign)
    filled = [word.replace("TASK", str(task)).replace("FOREIGN", str(foreign)) for word in argv]
    with pytest.raises(SystemExit) as stopped:
        ex_dcase2016task2.main([*filled, f"--output_dir={tmp_path}", *SHORT, "--pretrained=scratch"])
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and message in lines[-1]
