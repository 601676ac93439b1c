"""The weak stage: trains with each kind of teacher, writes its figures, and starts the strong stage."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import config
import ex_audioset_strong
import ex_audioset_weak
from errors import UserError

SHORT = ["--num_workers=0", "--logger=none", "--accelerator=cpu", "--n_epochs=1"]
MODEL = ["--model_name=fmn04", "--pretrained=scratch", "--batch_size=3", "--epoch_len=6"]


def published_teacher(folder: Path, data_dir: Path) -> list[str]:
    """Random logits and the pickle of their names, for all training clips but one; the options that name them."""
    with h5py.File(data_dir / "balanced_train_segments_mp3.hdf") as file:
        names = [name.decode().removeprefix("Y").removesuffix(".mp3") for name in file["audio_name"][1:]]
    np.save(folder / "logits.npy", np.random.default_rng(0).normal(-4, 2, (len(names), 527)).astype(np.float32))
    (folder / "names.pkl").write_bytes(pickle.dumps({name: row for row, name in enumerate(names)}))
    return [f"--teacher_predictions={folder / 'logits.npy'}", f"--teacher_names={folder / 'names.pkl'}"]


def test_trains_with_each_teacher_and_starts_the_strong_stage(tiny_dir: Path, tmp_path: Path) -> None:
    here = [f"--data_dir={tiny_dir}", f"--output_dir={tmp_path}", *SHORT]
    augmented = ["--gain_db=6", "--roll_seconds=0.125", "--wavmix_p=0.5"]
    teacher = ["--distillation_loss_weight=0.9", *published_teacher(tmp_path, tiny_dir)]
    ex_audioset_weak.main([*here, *MODEL, *augmented, *teacher])
    figures = json.loads((tmp_path / "as_weak" / "metrics.json").read_text())
    assert 0 < figures["val/mAP"] <= 1 and 0 <= figures["val/auroc"] <= 1 and "val/d_prime" in figures
    assert figures["val/mAP"] == pytest.approx(np.mean(list(figures["ap_per_class"].values())))

    best = tmp_path / "as_weak" / "best.ckpt"
    ex_audioset_weak.main([*here, f"--checkpoint={best}", "--evaluate", "--experiment_name=again"])
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again["val/weak_loss"] == pytest.approx(figures["val/weak_loss"], abs=1e-6)
    assert again["ap_per_class"].keys() == figures["ap_per_class"].keys()  # ranks of an untrained model may differ

    live = ["--distillation_loss_weight=0.5", f"--teacher_checkpoint={best}", "--experiment_name=student"]
    ex_audioset_weak.main([*here, *MODEL, *live])
    state = torch.load(tmp_path / "student" / "best.ckpt", weights_only=True)["state_dict"]
    assert not any("teacher" in name for name in state)

    strong = [*here, "--batch_size=3", f"--checkpoint={best}", "--experiment_name=strong"]
    ex_audioset_strong.main([*strong, "--model_name=fmn04", "--max_lr=1e-9", "--schedule_mode=exp"])
    tuned = torch.load(tmp_path / "strong" / "last.ckpt", weights_only=True)["state_dict"]
    first = "model.model.fmn.features.0.0.weight"
    torch.testing.assert_close(
        tuned[first], torch.load(best, weights_only=True)["state_dict"][first], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--distillation_loss_weight=0.9"], "--teacher_predictions or --teacher_checkpoint"),
        (["--teacher_pretrained=weak"], "published is 0.9"),
        (["--teacher_predictions=FILE"], "belong together"),
        (["--weight_decay=0.1"], "--adamw"),
        (["--mixup_alpha=0"], "at least"),
        (["--teacher_model_name=BEATs"], "--teacher_model_name is BEATs: no teacher network is named"),
        (["--teacher_seq_model_dim=128"], "no teacher network is named"),
        (["--teacher_temperature=2"], "--distillation_loss_weight is 0"),
        (["--teacher_checkpoint=FILE", "--teacher_pretrained=weak"], "names other weights"),
    ],
)
def test_contradicting_options_are_refused(argv: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=words):
        config.parse(config.WeakOptions, [word.replace("FILE", str(tmp_path / "file")) for word in argv])


@pytest.mark.parametrize("cls", [config.WeakOptions, config.OnlineOptions])
@pytest.mark.parametrize("other", ["--evaluate", "--resume"])
def test_a_teacher_is_no_matter_where_no_training_starts(cls: type, other: str, tmp_path: Path) -> None:
    """An evaluation has none; a resumed run has its weight, and may be told where the teacher's file lies now."""
    (tmp_path / "file").touch()
    config.parse(cls, [other, f"--teacher_checkpoint={tmp_path / 'file'}"])
