"""Transformers teach: live beside a student, and as an ensemble that writes pseudo labels."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import ex_audioset_strong_online_distillation
import make_pseudo_labels
from data_util.audioset import AudioSetStrong
from models import create_model
from tests.models.tiny_transformers import serve_released

SHORT = ["--num_workers=0", "--accelerator=cpu"]


def test_beats_teaches_a_student(tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published teacher, which is the default: nothing but its logits is learnt."""
    serve_released(monkeypatch, tmp_path, "BEATs")
    student = ["--model_name=fmn04", "--pretrained=scratch", "--n_epochs=1", "--batch_size=3", "--epoch_len=6"]
    here = [f"--data_dir={tiny_dir}", f"--output_dir={tmp_path}", *SHORT, "--logger=none", "--experiment_name=run"]
    ex_audioset_strong_online_distillation.main([*student, *here, "--strong_supervised_loss_weight=0"])
    assert "teacher           BEATs strong" in (tmp_path / "run" / "run.log").read_text()
    header, values = ((tmp_path / "run" / "metrics.csv").read_text().splitlines()[i].split(",") for i in (0, 1))
    losses = {name: float(value) for name, value in zip(header, values, strict=True) if "online_teacher_loss" in name}
    assert len(losses) == 2 and all(math.isfinite(loss) and loss > 0 for loss in losses.values()), losses


def test_an_ensemble_writes_the_mean_of_its_logits(
    tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_released(monkeypatch, tmp_path, "BEATs", "ATST-F", "M2D")
    names = ["BEATs_strong_1", "ATST-F_strong_1", "M2D_strong_1"]
    out = tmp_path / "teacher.hdf"
    make_pseudo_labels.main([f"--data_dir={tiny_dir}", "--teachers", *names, f"--out={out}", *SHORT, "--batch_size=4"])
    with h5py.File(out) as file:
        logits = file["strong_logits"][:]
    clips = AudioSetStrong(tiny_dir)
    assert logits.shape == (len(clips), 447, 250)
    audio = clips[5]["audio"][None]
    models = [create_model(name.split("_")[0], pretrained="strong") for name in names]
    with torch.no_grad():
        each = [model(model.mel_forward(audio))[0][0].numpy() for model in models]
    np.testing.assert_allclose(logits[5], np.mean(each, 0), atol=4e-3)
    assert max(np.abs(one - logits[5]).max() for one in each) > 0.1
