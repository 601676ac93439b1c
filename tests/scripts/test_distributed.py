"""Two processes on one machine (gloo) train and score as one process with the same global batch does."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import config
from errors import UserError
from helpers import devices
from models import create_model

ROOT = Path(__file__).parents[2]
PLAIN = [
    "--model_name=fmn04",
    "--pretrained=scratch",
    "--num_workers=0",
    "--accelerator=cpu",
    "--logger=csv",
    "--n_epochs=2",
    "--accumulate_grad_batches=1",
    # draws of augmentations differ between processes
    "--wavmix_p=0",
    "--mixup_p=0",
    "--frame_shift_range=0",
    "--no_mel_jitter",
    "--sync_batchnorm",
]


def run(*words: str, launcher: tuple[str, ...] = (), script: str = "ex_audioset_strong.py") -> None:
    """Run a script, by itself or under a launcher; a free port for every pair of processes."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
    environment |= {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(ROOT / script), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def losses(folder: Path) -> list[float]:
    with next(folder.glob("csv/*/metrics.csv")).open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


def figures(folder: Path) -> dict[str, float]:
    content = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in content.items() if name.startswith("val/")}


@pytest.mark.slow
def test_two_processes_equal_one(synthetic_dir: Path, tmp_path: Path) -> None:
    """Loss curve to 1e-5 with synchronised batch norm, figures of the validation too; one folder for both."""
    here = [f"--data_dir={synthetic_dir}", f"--output_dir={tmp_path}", *PLAIN]
    run(*here, "--experiment_name=one", "--batch_size=8")
    run(*here, "--experiment_name=two", "--batch_size=4", "--num_devices=2", "--strategy=ddp")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 6 and two == pytest.approx(one, abs=1e-5)
    assert figures(tmp_path / "two") == pytest.approx(figures(tmp_path / "one"), abs=1e-3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]

    # the same weights, so the same figures, however many processes share the clips
    best = f"--checkpoint={tmp_path / 'two' / 'best.ckpt'}"
    evaluation = [*here, best, "--evaluate", "--batch_size=3"]
    run(*evaluation, "--experiment_name=alone")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    run(*evaluation, "--num_devices=2", "--experiment_name=together", launcher=torchrun)
    alone, together = figures(tmp_path / "alone"), figures(tmp_path / "together")
    assert together["val/loss"] == pytest.approx(alone["val/loss"], abs=1e-6)
    for name in ("val/psds1", "val/psds1_macro_averaged", "val/pauroc"):
        assert together[name] == pytest.approx(alone[name], abs=1e-6)


def test_two_processes_score_tags_as_one(tiny_dir: Path, tmp_path: Path) -> None:
    """Three clips, so that one of the processes has a clip more than the other."""
    here = [f"--data_dir={tiny_dir}", f"--output_dir={tmp_path}", "--model_name=fmn04", "--pretrained=scratch"]
    here += ["--evaluate", "--batch_size=1", "--num_workers=0", "--logger=none", "--accelerator=cpu"]
    run(*here, "--experiment_name=one", script="ex_audioset_weak.py")
    run(*here, "--experiment_name=two", "--num_devices=2", script="ex_audioset_weak.py")
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    for name in ("val/mAP", "val/auroc", "val/d_prime", "val/weak_loss", "ap_per_class"):
        assert two[name] == pytest.approx(one[name], abs=1e-6)
    assert 0 < one["val/mAP"] < 1


def test_strategies_are_refused_where_they_cannot_work() -> None:
    for name, words in (("fsdp", "CUDA devices only"), ("deepspeed_stage_2", "pip install deepspeed|CUDA")):
        options = config.StrongOptions(strategy=name, num_devices=2)
        with pytest.raises(UserError, match=words):
            devices.strategy(options, "cpu")


@pytest.mark.parametrize(("name", "option"), [("fsdp", "ema"), ("fsdp", "gradient_clip"), ("deepspeed_stage_1", "ema")])
def test_sharded_weights_are_neither_averaged_nor_clipped(
    name: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda package: package)
    options = config.StrongOptions(strategy=name, num_devices=2, **{option: 0.5})
    with pytest.raises(UserError, match=f"--{option} is 0.5"):
        devices.strategy(options, "cuda")


def test_dropped_layers_are_expected() -> None:
    """BEATs skips layers at random, so some parameters are without gradient in some steps."""
    assert devices.strategy(config.StrongOptions(), "cpu") == "auto"
    several = config.StrongOptions(num_devices=2)
    for model, drops in ((create_model("fmn04"), False), (create_model("BEATs"), True)):
        assert devices.strategy(several, "cpu", model)._ddp_kwargs["find_unused_parameters"] is drops
