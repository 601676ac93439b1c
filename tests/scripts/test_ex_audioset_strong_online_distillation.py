"""Online distillation from the command line: as published, with a file in the teacher's place, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import config
import ex_audioset_strong_online_distillation as script
from errors import UserError
from models import create_model

SHORT = ["--num_workers=0", "--logger=none", "--accelerator=cpu", "--n_epochs=1"]
PUBLISHED = "--model_name=fmn10 --seq_model_type=tf --seq_model_dim=256 --pretrained=weak"
FIGURES = {"val/psds1_macro_averaged", "val/loss", "val/mAP", "val/weak_loss", "val/auroc"}
DEFAULTS = {  # of the published script
    "experiment_name": "audioset_online_distillation",
    "batch_size": 64,
    "accumulate_grad_batches": 4,
    "n_epochs": 240,
    "max_lr": 3e-3,
    "as_weak_sampling_strategy": "count",
    "as_weak_mixup_alpha": 0.3,
    "as_weak_mixup_p": 1.0,
    "as_weak_freq_warp_p": 0.0,
    "weak_supervised_loss_weight": 0.0,
    "weak_distillation_loss_weight": 0.0,
    "strong_supervised_loss_weight": 0.1,
    "strong_distillation_loss_weight": 0.0,
    "online_distillation_loss_weight": 0.9,
    "online_distillation_strong_ratio": 0.5,
    "teacher_model_name": "BEATs",
    "teacher_pretrained": "strong",
    "wavmix_p": 0.5,
    "frame_shift_range": 0.125,
    "mixup_p": 0.3,
    "lr_decay": 0.9,
    "warmup_steps": 5000,
}


def test_published_defaults() -> None:
    options = config.parse(config.OnlineOptions, [])
    assert {name: getattr(options, name) for name in DEFAULTS} == DEFAULTS


def frame_logits(path: Path, data_dir: Path) -> Path:
    """Random frame logits of all training clips but one."""
    with (
        h5py.File(data_dir / "balanced_train_segments_mp3.hdf") as a,
        h5py.File(data_dir / "unbalanced_train_segments_mp3.hdf") as b,
    ):
        names = [*a["audio_name"][1:], *b["audio_name"][:]]
    with h5py.File(path, "w") as file:
        file["filenames"] = np.array(names)
        file["strong_logits"] = np.random.default_rng(0).normal(-4, 2, (len(names), 447, 250)).astype(np.float16)
    return path


def test_published_command_line_and_a_file_in_the_teachers_place(tiny_dir: Path, tmp_path: Path) -> None:
    """As published but for paths, one short epoch, weights from files, and a small teacher."""
    torch.save(create_model("fmn10", n_classes_weak=527).state_dict(), tmp_path / "weak.pt")
    torch.save(create_model("fmn04").state_dict(), tmp_path / "teacher.pt")
    here = [f"--data_dir={tiny_dir}", f"--output_dir={tmp_path}", *SHORT, "--batch_size=3", "--epoch_len=6"]
    start = [f"--checkpoint={tmp_path / 'weak.pt'}"]
    live = [f"--teacher_checkpoint={tmp_path / 'teacher.pt'}", "--teacher_model_name=fmn04"]
    script.main([*PUBLISHED.split(), *here, *start, *live, "--weak_supervised_loss_weight=0.1"])
    folder = tmp_path / "audioset_online_distillation"
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures.keys() >= FIGURES
    content = torch.load(folder / "best.ckpt", weights_only=True)
    assert len(content["efficientsed"]["labels"]) == 447 and content["efficientsed"]["n_classes_weak"] == 527

    store = frame_logits(tmp_path / "teacher.hdf", tiny_dir)
    files = [f"--teacher_pseudo_labels={store}", f"--pseudo_labels_file={store}", "--strong_distillation_loss_weight=1"]
    small = ["--model_name=fmn04", "--pretrained=scratch", "--experiment_name=store", "--mixstyle_p=1"]
    script.main([*small, *here, *files])
    assert json.loads((tmp_path / "store" / "metrics.json").read_text()).keys() >= FIGURES

    again = [f"--checkpoint={tmp_path / 'store' / 'best.ckpt'}", "--evaluate", "--experiment_name=again"]
    script.main([*here, *again])
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("store", "again"))
    for name in ("val/loss", "val/weak_loss"):
        assert second[name] == pytest.approx(first[name], abs=1e-6)


def test_an_untrained_teacher_is_refused(tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tagging checkpoint with another number of classes has no strong head to teach with."""
    torch.save(create_model("fmn04", n_classes_strong=5).state_dict(), tmp_path / "tagger.pt")
    argv = ["--model_name=fmn04", "--pretrained=scratch", f"--data_dir={tiny_dir}", f"--output_dir={tmp_path}", *SHORT]
    with pytest.raises(SystemExit) as stop:
        script.main([*argv, "--teacher_model_name=fmn04", f"--teacher_checkpoint={tmp_path / 'tagger.pt'}"])
    assert stop.value.code == 2 and "no trained strong head" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--strong_distillation_loss_weight=1"], "--pseudo_labels_file"),
        (["--weak_distillation_loss_weight=1"], "--teacher_predictions"),
        ([f"--pseudo_labels_file={__file__}"], "--strong_distillation_loss_weight is 0"),
        ([f"--teacher_pseudo_labels={__file__}", "--online_distillation_loss_weight=0"], "nothing would learn"),
        (["--strong_supervised_loss_weight=0", "--online_distillation_loss_weight=0"], "nothing to train"),
        (["--online_distillation_strong_ratio=2"], "between 0 and 1"),
        (["--as_weak_sampling_strategy=even"], "uniform, count"),
        (["--online_distillation_loss_weight=0", "--teacher_pretrained=weak"], "--teacher_pretrained is weak: nothing"),
        (["--online_distillation_loss_weight=0", "--teacher_model_name=nope"], "--teacher_model_name is nope: nothing"),
        (
            ["--online_distillation_loss_weight=0", "--teacher_temperature=2"],
            "expected a teacher whose logits it divides",
        ),
        ([f"--teacher_pseudo_labels={__file__}", f"--teacher_checkpoint={__file__}"], "in place of a network"),
        (["--teacher_pretrained=weak", f"--teacher_checkpoint={__file__}"], "names other weights"),
    ],
)
def test_contradicting_options_are_refused(argv: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        config.parse(config.OnlineOptions, argv)
