"""The training script: published command lines, checkpoints, kill and resume."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import h5py
import numpy as np
import pytest
import torch
import yaml

import config
import ex_audioset_strong
from models import SEDModel, create_model, load_model

ROOT = Path(__file__).parents[2]
SMALL = ["--model_name=fmn04", "--seq_model_type=tf", "--seq_model_dim=104", "--num_workers=0"]
STEPS = ["--pretrained=scratch", "--batch_size=4", "--accumulate_grad_batches=2", "--n_epochs=3", "--logger=csv"]


def pseudo_labels(path: Path, data_dir: Path) -> Path:
    """Random teacher logits for all training clips but one, named as published files name them."""
    with h5py.File(data_dir / "balanced_train_segments_mp3.hdf") as file:
        names = [name.removeprefix(b"Y").removesuffix(b".mp3") for name in file["audio_name"][1:]]
    with h5py.File(path, "w") as file:
        file["filenames"] = np.array(names)
        file["strong_logits"] = np.random.default_rng(0).normal(-4, 2, (len(names), 447, 250)).astype(np.float16)
    return path


PUBLISHED = [  # of README and DESIGN, without paths
    "--model_name=fmn10 --seq_model_type=tf --seq_model_dim=256 --pretrained=weak --max_lr=3e-3 --seq_lr=3e-3 "
    "--distillation_loss_weight=0.9 --pseudo_labels_file=FILE --experiment_name=fmn10+tf:256_training",
    "--model_name=fmn20 --seq_model_type=gru --seq_model_dim=512 --pretrained=weak --max_lr=3e-3 --seq_lr=8e-4 "
    "--batch_size=32 --accumulate_grad_batches=8 --distillation_loss_weight=0.9 --pseudo_labels_file=FILE "
    "--experiment_name=fmn20+gru:512_training",
    "--model_name=fmn06 --seq_model_type=hybrid --seq_model_dim=160 --pretrained=weak --batch_size=128 "
    "--accumulate_grad_batches=2 --max_lr=1e-4 --seq_lr=1e-4 --experiment_name=fmn06+hybrid:160_training_without_kd",
    "--model_name=fmn10 --seq_model_type=tf --seq_model_dim=256 --pretrained=strong --evaluate "
    "--experiment_name=fmn10+tf:256_evaluate_strong_model",
]


@pytest.mark.slow
@pytest.mark.parametrize("line", PUBLISHED, ids=lambda line: line.split("experiment_name=")[1])
def test_published_command_lines_run(line: str, tiny_dir: Path, tmp_path: Path) -> None:
    """As published, but for paths, one epoch, and a checkpoint file where the network is missing."""
    labels = pseudo_labels(tmp_path / "teacher.hdf", tiny_dir)
    argv = line.replace("FILE", str(labels)).split()
    options = config.parse(config.StrongOptions, argv)
    seq_model = (options.seq_model_type, options.seq_model_dim) if options.evaluate else (None, 256)
    weights = create_model(options.model_name, seq_model_type=seq_model[0], seq_model_dim=seq_model[1])
    released = {f"net.{k}".replace("net.model.fmn.", "net.model."): v for k, v in weights.state_dict().items()}
    torch.save(released, tmp_path / "released.pt")

    here = [f"--data_dir={tiny_dir}", f"--output_dir={tmp_path}", f"--checkpoint={tmp_path / 'released.pt'}"]
    short = ["--n_epochs=1", "--num_workers=0", "--logger=none", "--accelerator=cpu"]
    ex_audioset_strong.main([*argv, *here, *short])

    folder = tmp_path / options.experiment_name
    figures = json.loads((folder / "metrics.json").read_text())
    assert 0 <= figures["val/psds1_macro_averaged"] <= 1 and figures["val/loss"] > 0
    if not options.evaluate:
        assert load_model(folder / "best.ckpt").model_name == options.model_name


def one_step(precision: str, data_dir: Path, folder: Path) -> tuple[float, set[torch.dtype]]:
    """Validation loss after an epoch of one step, and the types of the logits that the model gave in it."""
    argv = [*SMALL, "--pretrained=scratch", "--batch_size=4", "--n_epochs=1", "--logger=none", "--accelerator=cpu"]
    argv += [f"--data_dir={data_dir}", f"--output_dir={folder}", f"--precision={precision}", "--no_save_model"]
    types = set()
    with pytest.MonkeyPatch.context() as monkeypatch:
        forward = SEDModel.forward

        def watched(model: SEDModel, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            strong, weak = forward(model, mel)
            if model.training:
                types.add(strong.dtype)
            return strong, weak

        monkeypatch.setattr(SEDModel, "forward", watched)
        ex_audioset_strong.main(argv)
    return json.loads((folder / "as_strong" / "metrics.json").read_text())["val/loss"], types


@pytest.fixture(scope="module")
def loss_in_float32(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    loss, types = one_step("32-true", tiny_dir, tmp_path_factory.mktemp("float32"))
    assert types == {torch.float32}
    return loss


@pytest.mark.parametrize(("precision", "dtype"), [("16", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_one_step_in_every_precision(
    precision: str, dtype: torch.dtype, loss_in_float32: float, tiny_dir: Path, tmp_path: Path
) -> None:
    """bfloat16 is really used, and changes the loss a little; 16 means float32 on a CPU (16-mixed is refused there)."""
    loss, types = one_step(precision, tiny_dir, tmp_path)
    assert types == {dtype}
    assert loss == pytest.approx(loss_in_float32, rel=0.02)
    assert (loss == loss_in_float32) == (dtype == torch.float32)


def losses(folder: Path) -> dict[int, float]:
    """Training loss by optimiser step, over all logs of a run; a step that was logged twice must agree."""
    found: dict[int, float] = {}
    for path in sorted(folder.glob("csv/*/metrics.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                if row.get("train/loss"):
                    found[int(row["step"])] = float(row["train/loss"])
    return found


def start(data_dir: Path, folder: Path, *extra: str, output: IO[str] | int = subprocess.PIPE) -> subprocess.Popen[str]:
    argv = [f"--data_dir={data_dir}", f"--output_dir={folder}", "--accelerator=cpu", *SMALL, *STEPS, *extra]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "ex_audioset_strong.py"), *argv],
        text=True,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )


def wait_for(condition, process: subprocess.Popen[str], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "the run got nowhere"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_run_resumes_exactly(synthetic_dir: Path, tmp_path: Path) -> None:
    """SIGKILL in the second epoch; it goes on with the losses of an uninterrupted run, and ends with the same weights
    and the same averaged weights.

    All augmentations and dropout are on; three epochs of three optimiser steps of two batches. The killed run has a
    checkpoint after every step. Ctrl-C at any moment: tests/scripts/test_resume.py.
    """
    averaged = ["--ema=0.9", "--checkpoint_minutes=0.0001", "--gradient_clip=1"]
    whole = start(synthetic_dir, tmp_path, "--experiment_name=whole", *averaged)
    output, _ = whole.communicate(timeout=400)
    assert whole.returncode == 0, output
    expected = losses(tmp_path / "whole")
    assert len(expected) == 9

    killed = start(synthetic_dir, tmp_path, "--experiment_name=killed", *averaged)
    wait_for((tmp_path / "killed" / "step_00000005.ckpt").exists, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    again = start(synthetic_dir, tmp_path, "--experiment_name=killed", f"--resume={tmp_path / 'killed'}")
    output, _ = again.communicate(timeout=400)
    assert again.returncode == 0, output
    got = losses(tmp_path / "killed")
    assert max(got) == max(expected)
    assert {step: expected[step] for step in got} == got
    for weights in ("state_dict", "current_model_state"):
        first, second = (
            torch.load(tmp_path / run / "last.ckpt", weights_only=True)[weights] for run in ("whole", "killed")
        )
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_ctrl_c_from_the_shell(tiny_dir: Path, tmp_path: Path) -> None:
    log = tmp_path / "interrupted.log"
    interrupted = start(tiny_dir, tmp_path, "--experiment_name=interrupted", "--n_epochs=50", output=log.open("w"))
    wait_for(lambda: "Epoch 0" in log.read_text(), interrupted)
    interrupted.send_signal(signal.SIGINT)
    interrupted.wait(timeout=120)
    output = log.read_text()
    assert interrupted.returncode == 130, output
    assert "Traceback" not in output and "--resume" in output
    assert load_model(tmp_path / "interrupted" / "last.ckpt").model_name == "fmn04"


def test_run_folder_explains_itself(tiny_dir: Path, tmp_path: Path) -> None:
    """Options, metrics and checkpoints lie in the folder; the options read back; a second run gets its own folder."""
    argv = [
        f"--data_dir={tiny_dir}",
        f"--output_dir={tmp_path}",
        "--experiment_name=run",
        *SMALL,
        *STEPS,
        "--n_epochs=1",
    ]
    ex_audioset_strong.main([*argv, "--wavmix_p=0.25"])
    saved = tmp_path / "run" / "config.yaml"
    assert yaml.safe_load(saved.read_text())["wavmix_p"] == 0.25
    assert config.parse(config.StrongOptions, ["--config", str(saved)]).wavmix_p == 0.25
    assert config.parse(config.StrongOptions, ["--config", str(saved), "--wavmix_p=0.5"]).wavmix_p == 0.5

    checkpoint = tmp_path / "run" / "best.ckpt"
    content = torch.load(checkpoint, weights_only=True)["efficientsed"]
    assert content["options"]["wavmix_p"] == 0.25 and len(content["labels"]) == 447

    same_place = [f"--data_dir={tiny_dir}", f"--output_dir={tmp_path}", "--experiment_name=run", "--num_workers=0"]
    # without --model_name: the checkpoint says it
    ex_audioset_strong.main([*same_place, "--evaluate", f"--checkpoint={checkpoint}", "--logger=none"])
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("run", "run-2"))
    assert first["val/loss"] == pytest.approx(second["val/loss"], abs=1e-6)
    assert first["psds1_per_class"] == pytest.approx(second["psds1_per_class"], abs=1e-6, nan_ok=True)
