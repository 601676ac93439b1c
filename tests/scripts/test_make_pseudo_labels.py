"""Pseudo labels: equal to the models' own logits, whoever computes them and however often they are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import make_pseudo_labels
from data_util.audioset import AudioSetStrong
from models import create_model, load_model
from models.checkpoints import METADATA_KEY

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two small checkpoints as our training writes them."""
    folder = tmp_path_factory.mktemp("teachers")
    paths = []
    for i, seq_model_type in enumerate((None, "gru")):
        torch.manual_seed(i)
        model = create_model("fmn04", seq_model_type=seq_model_type, seq_model_dim=32)
        state = {f"model.{key}": value for key, value in model.state_dict().items()}
        paths.append(folder / f"teacher{i}.ckpt")
        torch.save({"state_dict": state, METADATA_KEY: {**model.metadata(), "untrained": []}}, paths[-1])
    return paths


def command(data_dir: Path, teachers: list[Path], out: Path, *extra: str) -> list[str]:
    names = [str(path) for path in teachers]
    shared = ["--accelerator=cpu", "--num_workers=0", "--batch_size=4"]
    return [f"--data_dir={data_dir}", "--teachers", *names, f"--out={out}", *shared, *extra]


def contents(path: Path) -> tuple[list[bytes], np.ndarray]:
    with h5py.File(path) as file:
        return file["filenames"][:].tolist(), file["strong_logits"][:]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.Popen([sys.executable, str(ROOT / "make_pseudo_labels.py"), *arguments], env=env, cwd=ROOT)


@pytest.fixture(scope="module")
def labels(synthetic_dir: Path, teachers: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that one uninterrupted process writes."""
    out = tmp_path_factory.mktemp("labels") / "teacher.hdf"
    assert start(command(synthetic_dir, teachers, out)).wait(timeout=300) == 0
    return out


def test_equals_the_mean_of_the_logits(labels: Path, synthetic_dir: Path, teachers: list[Path]) -> None:
    names, logits = contents(labels)
    clips = AudioSetStrong(synthetic_dir)
    assert [name.decode() for name in names] == clips.clip_ids
    assert logits.dtype == np.float16 and logits.shape == (24, 447, 250)
    models = [load_model(path) for path in teachers]
    for index in (0, 13, 23):
        audio = clips[index]["audio"][None]
        with torch.no_grad():
            expected = sum(model(model.mel_forward(audio))[0] for model in models) / 2
        np.testing.assert_allclose(logits[index], expected[0], atol=2e-3)


def test_the_training_reads_them(labels: Path, synthetic_dir: Path) -> None:
    clips = AudioSetStrong(synthetic_dir, pseudo_labels=labels)
    assert clips.without_pseudo == 0
    np.testing.assert_array_equal(clips[5]["pseudo_logits"], contents(labels)[1][5])


@pytest.mark.slow
def test_killed_and_resumed(labels: Path, synthetic_dir: Path, teachers: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "teacher.hdf"
    process = start(command(synthetic_dir, teachers, out))
    parts = tmp_path / ".teacher.hdf.parts"
    while not list(parts.glob("0*.npz")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    finished = {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.npz")}
    assert 0 < len(finished) < 6
    (parts / ".0000005.npz.1.part").write_bytes(b"half a batch")

    make_pseudo_labels.main(command(synthetic_dir, teachers, out))
    names, logits = contents(out)
    expected_names, expected = contents(labels)
    assert names == expected_names
    np.testing.assert_array_equal(logits, expected)
    assert not parts.exists()


@pytest.mark.slow
def test_two_processes_write_the_same(labels: Path, synthetic_dir: Path, teachers: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "teacher.hdf"
    assert start(command(synthetic_dir, teachers, out, "--num_devices=2", "--strategy=ddp")).wait(timeout=300) == 0
    names, logits = contents(out)
    expected_names, expected = contents(labels)
    assert names == expected_names
    np.testing.assert_array_equal(logits, expected)


def test_parts_of_another_run_are_refused(
    synthetic_dir: Path, teachers: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tmp_path / ".teacher.hdf.parts"
    parts.mkdir()
    (parts / "request.txt").write_text("something else")
    with pytest.raises(SystemExit) as stop:
        make_pseudo_labels.main(command(synthetic_dir, teachers, tmp_path / "teacher.hdf"))
    assert stop.value.code == 2 and "another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--teachers is missing"),
        (["--teachers", "BEATS_strong_1"], "did you mean BEATs_strong_1"),
        (["--teachers", "no.ckpt"], "no such file"),
        (["--teachers", "x", "--split=test"], "train, eval"),
    ],
)
def test_mistakes(
    arguments: list[str], words: str, synthetic_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        make_pseudo_labels.main([f"--data_dir={synthetic_dir}", f"--out={tmp_path / 'x.hdf'}", *arguments])
    assert stop.value.code == 2 and words in capsys.readouterr().err
