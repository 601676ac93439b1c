"""A user's mistake ends in one line on stderr and exit code 2."""

from __future__ import annotations

import errno
import shutil
import sys
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch

import ex_audioset_strong
import ex_audioset_strong_online_distillation as online
import ex_audioset_weak
import ex_dcase2016task2
import ex_downstream
import ex_finetune


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        ex_audioset_strong.main([*argv, "--logger=none", "--num_workers=0"])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.fixture
def data_copy(synthetic_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(synthetic_dir, tmp_path / "data"))


@pytest.fixture(autouse=True)
def _runs_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUDIOSET_DIR", raising=False)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--mixup_p=1.5", ["--mixup_p", "1.5", "between 0 and 1"]),
        ("--mixup_p=nan", ["--mixup_p", "nan", "between 0 and 1"]),
        ("--batch_size=0", ["--batch_size", "0", "at least 1"]),
        ("--batch_size=many", ["--batch_size", "many", "whole number"]),
        ("--schedule_mode=step", ["--schedule_mode", "step", "cos"]),
        ("--precision=8", ["--precision", "8", "bf16-mixed"]),
        ("--precision=16-mixed", ["--precision", "16-mixed"]),
        ("--median_window=8", ["--median_window", "8", "odd"]),
        ("--weight_decay=0.1", ["--weight_decay", "0.1", "--adamw"]),
        ("--max_time_mask_size=0.04", ["--max_time_mask_size", "0.04", "0.05"]),
        ("--distillation_loss_weight=0.5", ["--distillation_loss_weight", "--pseudo_labels_file"]),
        ("--checkpoint=no.ckpt", ["--checkpoint", "no.ckpt", "expected a file, got a path that does not exist"]),
        (
            "--pseudo_labels_file=no.hdf",
            ["--pseudo_labels_file", "no.hdf", "expected a file, got a path that does not exist"],
        ),
        ("--pseudo_labels_file=.", ["--pseudo_labels_file", "expected a file, got a folder; name a file in it"]),
        (f"--pseudo_labels_file={__file__}", ["--pseudo_labels_file", "--distillation_loss_weight is 0"]),
        ("--modelname=fmn10", ["--modelname", "--model_name"]),
        ("--config=no.yaml", ["--config", "no.yaml"]),
        ("--resume=no_run", ["--resume", "no_run"]),
        ("--experiment_name=../out", ["--experiment_name", "plain name"]),
        ("--model_name=fmn11", ["fmn11", "did you mean", "fmn10"]),
        ("--seq_model_dim=100", ["100", "8"]),
        ("--pretrained=string", ["string", "strong"]),
    ],
)
def test_options(argument: str, words: list[str], synthetic_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = [f"--data_dir={synthetic_dir}", "--model_name=fmn10", "--seq_model_type=tf", "--accelerator=cpu"]
    scratch = [] if "pretrained" in argument else ["--pretrained=scratch"]
    line = refused([*first, *scratch, argument], capsys)
    assert all(word in line for word in words), line


def test_missing_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert "AUDIOSET_DIR" in refused([], capsys)
    assert "nowhere" in refused(["--data_dir=nowhere"], capsys)


@pytest.mark.parametrize("name", ["eval_segments_mp3.hdf", "audioset_train_strong.tsv"])
def test_missing_file(name: str, data_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data_copy / name).unlink()
    assert name in refused([f"--data_dir={data_copy}", "--pretrained=scratch"], capsys)


def test_truncated_hdf5(data_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = data_copy / "eval_segments_mp3.hdf"
    path.write_bytes(path.read_bytes()[:5000])
    assert path.name in refused([f"--data_dir={data_copy}", "--pretrained=scratch"], capsys)


@pytest.mark.parametrize("entry", ["audio_name", "mp3", "target"])
def test_missing_hdf5_entry(entry: str, data_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(data_copy / "eval_segments_mp3.hdf", "a") as file:
        del file[entry]
    line = refused([f"--data_dir={data_copy}", "--pretrained=scratch"], capsys)
    assert entry in line and "eval_segments_mp3.hdf" in line


def test_unknown_mid(data_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tsv = data_copy / "audioset_train_strong.tsv"
    lines = tsv.read_text().splitlines()
    lines[3] = lines[3].rpartition("\t")[0] + "\t/m/nosuch"
    tsv.write_text("\n".join(lines) + "\n")
    line = refused([f"--data_dir={data_copy}", "--pretrained=scratch"], capsys)
    assert "/m/nosuch" in line and tsv.name in line and "4" in line


def test_pseudo_labels_of_wrong_shape(synthetic_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(tmp_path / "teacher.hdf", "w") as file:
        file["filenames"] = np.array([b"Yabc"])
        file["strong_logits"] = np.zeros((1, 447, 100), np.float16)
    argv = [f"--data_dir={synthetic_dir}", "--pretrained=scratch", "--distillation_loss_weight=0.9"]
    line = refused([*argv, f"--pseudo_labels_file={tmp_path / 'teacher.hdf'}"], capsys)
    assert "447" in line and "250" in line and "100" in line


def test_weights_without_network(
    synthetic_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import urllib.error
    import urllib.request

    def no_network(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    line = refused([f"--data_dir={synthetic_dir}", "--model_name=fmn10"], capsys)
    assert "fmn10_weak" in line and "https://" in line and "--checkpoint" in line


def test_a_checkpoint_that_is_none(synthetic_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.ckpt").write_bytes(b"not a checkpoint")
    assert "bad.ckpt" in refused([f"--data_dir={synthetic_dir}", f"--checkpoint={tmp_path / 'bad.ckpt'}"], capsys)


@pytest.mark.parametrize("name", ["audioset_eval_strong.tsv", "audioset_train_strong.tsv", "eval_durations.csv"])
def test_label_files_that_are_no_text(name: str, data_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [f"--data_dir={data_copy}", "--pretrained=scratch", "--model_name=fmn04"]
    with (data_copy / name).open("ab") as file:
        file.write(b"\xff\xfe\x00")
    line = refused(argv, capsys)
    assert name in line and "UTF-8" in line
    (data_copy / name).unlink()
    (data_copy / name).mkdir()
    line = refused(argv, capsys)
    assert name in line and "folder" in line


def test_a_file_that_may_not_be_read(
    data_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forbidden = data_copy / "audioset_train_strong.tsv"

    def read_bytes(self: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))  # also where tests run as root

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    line = refused([f"--data_dir={data_copy}", "--pretrained=scratch"], capsys)
    assert str(forbidden) in line and "no permission" in line


@pytest.mark.parametrize(
    "script", [ex_audioset_strong, ex_audioset_weak, online, ex_downstream, ex_dcase2016task2, ex_finetune]
)
def test_what_the_machine_lacks_is_refused_before_any_work(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before data is looked for, which is not there, and before the run has a folder, whose name would be taken."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "sacred", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    clips = {
        ex_downstream: ["--task=esc50", "--fold=1", "--data_dir=none"],
        ex_finetune: [f"--audio={Path(__file__).parent}"],
    }
    for argument, words in (
        ("--accelerator=cuda", "--accelerator is cuda"),
        ("--precision=16-mixed", "--precision is 16-mixed"),
        ("--strategy=fsdp", "--strategy is fsdp"),
        ("--recorder=sacred", "pip install sacred"),
        ("--logger=tensorboard", "pip install tensorboard"),
    ):
        with pytest.raises(SystemExit) as stop:
            script.main([*clips.get(script, []), "--accelerator=cpu", "--logger=none", argument])
        assert stop.value.code == 2 and words in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
