"""Pseudo labels: equal to the models' own logits, whoever computes them and however often they are interrupted."""

from __future__ import annotations

import os
import re
import shlex
import shutil
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
from data_util.pseudo_labels import open_pseudo_labels
from errors import UserError
from helpers import psds_command
from helpers.pseudo_labelling import Ensemble, PartFolder, fingerprint
from models import create_model, load_model
from models.checkpoints import METADATA_KEY
from tests.lock_holder import written_by_another

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
    while not list(parts.glob("0*.hdf")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    finished = {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.hdf")}
    assert 0 < len(finished) < 6
    (parts / ".0000005.hdf.1.part").write_bytes(b"half a batch")

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


@pytest.mark.slow
def test_fewer_batches_than_processes(labels: Path, synthetic_dir: Path, teachers: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "teacher.hdf"
    extra = ["--batch_size=24", "--num_devices=2", "--strategy=ddp"]
    assert start(command(synthetic_dir, teachers, out, *extra)).wait(timeout=300) == 0
    assert contents(out)[0] == contents(labels)[0]
    np.testing.assert_allclose(contents(out)[1], contents(labels)[1], atol=4e-3)


def test_parts_belong_to_these_weights_and_files(synthetic_dir: Path, teachers: list[Path], tmp_path: Path) -> None:
    data = shutil.copytree(synthetic_dir, tmp_path / "data")
    clips, models = AudioSetStrong(data), [load_model(path) for path in teachers]
    first = fingerprint(models, clips)
    assert fingerprint([load_model(path) for path in teachers], AudioSetStrong(data)) == first
    assert fingerprint(models[::-1], clips) != first and fingerprint(models[:1], clips) != first
    with torch.no_grad():
        next(models[1].parameters()).view(-1)[0] += 1e-3
    assert fingerprint(models, clips) != first
    models[1] = load_model(teachers[1])
    os.utime(data / "balanced_train_segments_mp3.hdf", (1, 1))  # packed again
    assert fingerprint(models, clips) != first
    assert fingerprint(models, AudioSetStrong(synthetic_dir, "eval")) != first


def test_compact_file_leaves_out_and_names_the_corrupt(
    labels: Path, synthetic_dir: Path, teachers: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parts are compact too; a clip without audio stands in the log."""
    data = shutil.copytree(synthetic_dir, tmp_path / "data")
    clip = AudioSetStrong(data).clip_ids[5]
    with h5py.File(data / "balanced_train_segments_mp3.hdf", "r+") as file:
        file["mp3"][file["audio_name"][:].tolist().index(f"{clip}.mp3".encode())] = np.zeros(30, np.uint8)
    out = tmp_path / "teacher.hdf"
    make_pseudo_labels.main(command(data, teachers, out, "--compact"))
    assert f"1 clips are left out (they cannot be decoded, or their logits are not finite): {clip}" in (
        capsys.readouterr().out
    )
    dense, small = open_pseudo_labels(labels), open_pseudo_labels(out)
    clips = AudioSetStrong(synthetic_dir).clip_ids
    rows = small.rows_of(clips).tolist()
    assert rows == [*range(5), -1, *range(5, 23)]
    for index in (0, 23):
        p, q = (1 / (1 + np.exp(-x.astype(float))) for x in (dense.read(index), small.read(rows[index])))
        assert np.abs(p - q).max() < 0.02
    assert "strong_logits" not in h5py.File(out) and not (tmp_path / ".teacher.hdf.parts").exists()


def test_logits_that_are_not_finite_are_left_out(teachers: list[Path], tmp_path: Path) -> None:
    parts = PartFolder(tmp_path / "x.hdf", "request")
    parts.prepare()
    ensemble = Ensemble([load_model(teachers[0])], parts, 2)
    logits = torch.tensor([0.0, 1e6]).view(2, 1, 1).expand(2, 447, 250)
    ensemble.forward = lambda audio: logits  # type: ignore[method-assign]
    batch = {"audio": None, "valid": torch.tensor([True, True]), "clip_id": ["Ya", "Yb"], "index": torch.tensor([0, 1])}
    ensemble.predict_step(batch, 0)
    assert parts.merge(1) == ["Ya"] and contents(tmp_path / "x.hdf")[1].shape == (1, 447, 250)
    logits = torch.full((2, 447, 250), 1e6)
    parts.prepare()
    ensemble.predict_step(batch, 0)
    with pytest.raises(UserError, match="no clip could be decoded"):
        parts.merge(1)
    assert contents(tmp_path / "x.hdf")[1].shape == (1, 447, 250) and not parts.folder.exists()


def test_interrupted(
    synthetic_dir: Path,
    teachers: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Ensemble, "predict_step", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stop:
        make_pseudo_labels.main(command(synthetic_dir, teachers[:1], tmp_path / "teacher.hdf"))
    assert signal.getsignal(signal.SIGINT) == handler, "Lightning has Ctrl-C ignored"
    line = capsys.readouterr().err.rstrip().splitlines()[-1]
    parts = tmp_path / ".teacher.hdf.parts"
    assert stop.value.code == 130
    assert line == f"interrupted: 0 of 6 batches are in {parts}; the same command resumes"


def test_parts_of_another_run_are_refused(
    synthetic_dir: Path, teachers: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tmp_path / ".teacher.hdf.parts"
    parts.mkdir()
    (parts / "request.txt").write_text("something else")
    with pytest.raises(SystemExit) as stop:
        make_pseudo_labels.main(command(synthetic_dir, teachers, tmp_path / "teacher.hdf"))
    assert stop.value.code == 2 and "another run" in capsys.readouterr().err


def test_a_part_that_another_run_has_left_is_never_used(
    synthetic_dir: Path, teachers: list[Path], tmp_path: Path
) -> None:
    """Two teachers would be mixed: the part of another one, without or with the note of this run, and a damaged one."""
    out, alone = tmp_path / "teacher.hdf", tmp_path / "alone.hdf"
    make_pseudo_labels.main(command(synthetic_dir, teachers[1:], alone))
    expected = contents(alone)
    for note in (False, True):
        parts = PartFolder(out, "of another teacher")
        parts.prepare()
        parts.write(5, ["Yx", "Yy"], np.ones((2, 447, 250), np.float16))
        (parts.folder / "0000002.hdf").write_bytes(b"half a file")
        old = parts.path(0)  # of a version whose parts did not say what they belong to
        with h5py.File(old, "w") as file:
            file["filenames"], file["strong_logits"] = [b"Yz"], np.ones((1, 447, 250), np.float16)
        (parts.folder / "request.txt").unlink()
        if note:
            models, clips = [load_model(teachers[1])], AudioSetStrong(synthetic_dir)
            this = "\n".join(["32", "4", "dense", fingerprint(models, clips)])
            (parts.folder / "request.txt").write_text(this)
            PartFolder(out, this).write(1, ["Ykept"], np.ones((1, 447, 250), np.float16))
        make_pseudo_labels.main([*command(synthetic_dir, teachers[1:], out), "--overwrite"])
        names, logits = contents(out)
        if note:  # the part of this very run was taken as it is
            assert names[4] == b"Ykept" and len(names) == 21
        else:
            assert names == expected[0]
            np.testing.assert_array_equal(logits, expected[1])
        assert b"Yx" not in names and b"Yz" not in names


def test_two_at_once_are_refused(
    synthetic_dir: Path, teachers: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "teacher.hdf"
    with written_by_another(out) as line, pytest.raises(SystemExit) as stop:
        make_pseudo_labels.main(command(synthetic_dir, teachers, out))
    assert stop.value.code == 2 and capsys.readouterr().err.splitlines()[-1].startswith(line)
    assert not (tmp_path / ".teacher.hdf.parts").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--teachers is missing"),
        (["--teachers", "BEATS_strong_1"], "did you mean BEATs_strong_1"),
        (["--teachers", "no.ckpt"], "expected a file, got a path that does not exist"),
        (["--teachers", "x", "--split=test"], "train, eval"),
    ],
)
def test_mistakes(
    arguments: list[str], words: str, synthetic_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        make_pseudo_labels.main([f"--data_dir={synthetic_dir}", f"--out={tmp_path / 'x.hdf'}", *arguments])
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_the_readme_compares_two_models_as_it_says(
    tiny_dir: Path, teachers: list[Path], tmp_path: Path, capsys
) -> None:
    """The commands of README, "Compare two models", with DIR and the teachers filled in."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("### Compare two models", 1)[1].split("```")[1].replace("\\\n", " ")
    lines = [line.partition("   #")[0] for line in section.strip().splitlines()]
    assert [line.split()[:3] for line in lines][2] == ["python", "-m", "helpers.psds"]
    names = {"DIR": tiny_dir, "runs/my_run/best.ckpt": teachers[0], "runs/other_run/best.ckpt": teachers[1]}
    names |= {name: tmp_path / name for name in ("mine.hdf", "other.hdf", "comparison")}
    for old, new in names.items():
        lines = [re.sub(rf"(?<=[= ]){re.escape(old)}(?=[/ ]|$)", str(new), line) for line in lines]
    for line in lines[:2]:
        make_pseudo_labels.main([*shlex.split(line)[2:], "--accelerator=cpu", "--num_workers=0", "--batch_size=4"])
    compare = [*shlex.split(lines[2])[3:], "--bootstrap=5"]
    psds_command.main(compare)
    without = capsys.readouterr().out
    psds_command.main([*compare, f"--durations={tiny_dir / 'eval_durations.csv'}", "--overwrite"])

    def figures(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("  ")]

    assert len(figures(without)) > 6 and figures(without) == figures(capsys.readouterr().out)


def test_a_teacher_of_whole_clips_is_refused_before_any_work(
    tiny_dir: Path, teachers: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = torch.load(teachers[0], weights_only=True)
    paths = []
    for name, more in (("weak", {"untrained": ["strong_head"]}), ("task", {"weak_labels": ["bark"]})):
        paths.append(tmp_path / f"{name}.ckpt")
        torch.save({**content, METADATA_KEY: {**content[METADATA_KEY], **more}}, paths[-1])
    monkeypatch.setattr("models.checkpoints.fetch", lambda *_, **__: pytest.fail("nothing is downloaded"))
    for teacher in (*paths, Path("mn10_as"), Path("fmn10_weak")):
        with pytest.raises(UserError, match=r"it scores whole clips and has no trained head for frames"):
            make_pseudo_labels.load_teacher(str(teacher))
    assert make_pseudo_labels.load_teacher(str(teachers[0])).model_name == "fmn04"


def test_a_finished_file_of_the_same_request_is_nothing_to_do(
    tiny_dir: Path, teachers: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    out = tmp_path / "labels.hdf"
    make_pseudo_labels.main(command(tiny_dir, teachers[:1], out, "--split=eval"))
    before = (out.stat().st_mtime_ns, contents(out)[1].tobytes())
    with monkeypatch.context() as patch:
        patch.setattr(Ensemble, "predict_step", lambda *_: pytest.fail("nothing is computed"))
        make_pseudo_labels.main(command(tiny_dir, teachers[:1], out, "--split=eval"))
    assert (out.stat().st_mtime_ns, contents(out)[1].tobytes()) == before
    for other in (command(tiny_dir, teachers[1:], out, "--split=eval"), command(tiny_dir, teachers[:1], out)):
        with pytest.raises(SystemExit) as stop:
            make_pseudo_labels.main(other)
        assert stop.value.code == 2 and "the file exists, from another request" in capsys.readouterr().err
