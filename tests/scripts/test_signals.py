"""Signals to commands that really run: to the main process or to all, once or twice, at any moment.

Each command has a process group of its own. Whatever comes, it ends with the right code and one line, no process of it
stays, no half-written file either, and what it was doing can be resumed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import make_pseudo_labels
from data_util import pack as pack_module
from data_util.hdf5_dataset import Mp3File
from helpers.run_folder import resume_position
from models import create_model
from models.checkpoints import METADATA_KEY
from tests.golden_recipe import calibrated_model

ROOT = Path(__file__).parents[2]
SECONDS = 60.0  # that anything may take, on a machine that does a lot beside
GRACE = 20.0  # from the signal to the end; clusters give 30
DOG = "/m/0bt9lr"


def until(condition: Callable[[], Any], seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


@dataclass
class Command:
    """A command that runs."""

    ask: Callable[..., Any]
    pid: int
    log: Path
    mark: Path
    seconds: float = 0.0  # that the main process took to end

    def send(self, whom: str, number: int) -> None:
        """Signal the main process alone, all, or both one after the other, as `timeout` does."""
        if whom in ("main", "both"):
            os.kill(self.pid, number)
        if whom in ("group", "both"):
            os.killpg(self.pid, number)

    def end(self, seconds: float = GRACE) -> tuple[int, str]:
        """Exit code and last line, when it has ended; no process of the command is left then."""
        asked = time.monotonic()
        code = self.ask(do="wait", pid=self.pid, seconds=seconds)
        self.seconds = time.monotonic() - asked
        text = self.log.read_text()
        assert code is not None, f"it is still there:\n{text}"
        until(lambda: self.n_processes() == 0, 5)
        assert "Traceback" not in text and "Error" not in text, text
        return code, text.replace("\r", "\n").strip().splitlines()[-1]

    def n_processes(self) -> int:
        """How many of its processes are there; those that wait for init to take notice of their end are not."""
        listed = subprocess.run(["ps", "-e", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
        rows = [line.split() for line in listed.splitlines()]
        return sum(group == str(self.pid) and not state.startswith("Z") for group, state in rows)


Start = Callable[..., Command]


@pytest.fixture(scope="module")
def ask() -> Iterator[Callable[..., Any]]:
    """The server of commands: a request to its answer."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, str(Path(__file__).with_name("command_server.py"))]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(program, text=True, env=environment, cwd=ROOT, **pipes) as server:

        def asked(**request: Any) -> Any:
            assert server.stdin is not None and server.stdout is not None
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield asked
        server.stdin.close()  # type: ignore[union-attr]


@pytest.fixture
def start(ask: Callable[..., Any], tmp_path: Path) -> Iterator[Start]:
    """Starts a command; what is left of it at the end of the test is killed."""
    started = []

    def begin(module: str, *argv: object, hook: str | None = None, set_up: str = "") -> Command:
        log, mark = tmp_path / "log", tmp_path / "mark"
        log.unlink(missing_ok=True)
        mark.unlink(missing_ok=True)
        words = [str(word) for word in argv]
        pid = ask(do="start", module=module, argv=words, log=str(log), hook=hook, mark=str(mark), set_up=set_up)
        started.append(Command(ask, pid, log, mark))
        return started[-1]

    yield begin
    for command in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)


def unfinished(folder: Path) -> list[Path]:
    """Files under temporary names."""
    return [path for path in folder.rglob("*") if ".part" in path.name and not path.name.endswith(".parts")]


# ---- training -------------------------------------------------------------------------------------------------


@pytest.fixture
def train(start: Start, tiny_dir: Path, tmp_path: Path) -> Start:
    """Starts a training of many epochs of six steps; its folder is tmp_path / 'run'."""

    def begin(workers: int, hook: str, *more: str) -> Command:
        place = [f"--data_dir={tiny_dir}", f"--output_dir={tmp_path}", "--experiment_name=run", "--logger=csv"]
        model = ["--model_name=fmn04", "--pretrained=scratch", "--accelerator=cpu", "--n_epochs=50"]
        steps = ["--batch_size=1", "--accumulate_grad_batches=2", "--check_val_every_n_epoch=1"]
        loading = [f"--num_workers={workers}", "--checkpoint_minutes=0"]
        return start("ex_audioset_strong", *place, *model, *steps, *loading, *more, hook=hook)

    return begin


SAVED = "saved {0}/last.ckpt; resume with --resume {0}"


@pytest.mark.parametrize(
    ("number", "whom", "workers", "code", "word"),
    [
        (signal.SIGTERM, "main", 0, 143, "terminated"),
        (signal.SIGTERM, "main", 2, 143, "terminated"),
        (signal.SIGTERM, "both", 2, 143, "terminated"),
        (signal.SIGINT, "group", 2, 130, "interrupted"),
        (signal.SIGHUP, "group", 0, 129, "terminated"),
    ],
)
def test_a_training_saves_and_ends(
    train: Start, tmp_path: Path, number: int, whom: str, workers: int, code: int, word: str
) -> None:
    """In the first epoch, before anything is saved."""
    run = tmp_path / "run"
    command = train(workers, "training_step")
    until(command.mark.exists)
    assert not (run / "last.ckpt").exists() and command.n_processes() == 1 + workers
    command.send(whom, number)
    assert command.end() == (code, f"{word}: {SAVED.format(run)}")
    epoch, batches = resume_position(run / "last.ckpt")
    assert epoch == 0 and batches in (2, 4) and not unfinished(run)


def test_in_a_validation(train: Start, tmp_path: Path) -> None:
    """The processes that load the evaluation clips are there, too."""
    run = tmp_path / "run"
    command = train(1, "validation_step")
    until(command.mark.exists)
    assert command.n_processes() >= 3
    command.send("group", signal.SIGTERM)
    assert command.end() == (143, f"terminated: {SAVED.format(run)}")
    assert resume_position(run / "last.ckpt") == (0, 6) and not unfinished(run)


def test_while_loaders_start(train: Start, tmp_path: Path) -> None:
    """The checkpoint before a validation is there when its loader starts."""
    command = train(2, "training_step")
    until((tmp_path / "run" / "last.ckpt").exists)
    command.send("group", signal.SIGTERM)
    assert command.end() == (143, f"terminated: {SAVED.format(tmp_path / 'run')}")


def test_while_a_checkpoint_is_written(train: Start, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = train(2, "fsync")
    until(command.mark.exists)
    assert unfinished(run) and not (run / "last.ckpt").exists()
    command.send("group", signal.SIGTERM)
    assert command.end() == (143, f"terminated: {SAVED.format(run)}")
    assert resume_position(run / "last.ckpt") == (0, 6) and not unfinished(run)


def test_a_second_signal_ends_at_once_and_leaves_the_earlier_checkpoint(train: Start, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = train(2, "fsync")
    until((run / "last.ckpt").exists)
    command.mark.unlink()
    until(command.mark.exists)  # the next one is being written
    until(lambda: unfinished(run))
    before = {path.name: path.read_bytes() for path in run.glob("*.ckpt")}
    command.send("group", signal.SIGTERM)
    time.sleep(0.8)
    assert command.n_processes() == 5
    command.send("group", signal.SIGTERM)
    assert command.end() == (143, "stopped at once by a second signal")
    assert command.seconds < 1.5, "it waited for the checkpoint"
    assert {path.name: path.read_bytes() for path in run.glob("*.ckpt")} == before and not unfinished(run)
    resume_position(run / "last.ckpt")


def test_before_the_training_starts(train: Start) -> None:
    command = train(0, "training_step")
    time.sleep(0.1)
    command.send("group", signal.SIGTERM)
    code, line = command.end()
    assert code in (143, -signal.SIGTERM)  # the latter: before its first line
    assert line.startswith("terminated") or code < 0


def test_a_killed_training_leaves_no_process(train: Start) -> None:
    """SIGKILL to the main process alone: workers of a loader see it, busy or not."""
    command = train(2, "training_step")
    until(lambda: command.mark.exists() and command.n_processes() >= 3)
    command.send("main", signal.SIGKILL)
    assert command.end()[0] == -signal.SIGKILL


# ---- other commands -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as our training writes it."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.ckpt"
    torch.manual_seed(0)
    model = create_model("fmn04")
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, METADATA_KEY: {**model.metadata(), "untrained": []}}, path)
    return path


def make_clips(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    rng, names = np.random.default_rng(0), [f"clip{i}" for i in range(count)]
    for name in names:
        soundfile.write(folder / f"{name}.wav", 0.1 * rng.standard_normal(16_000), 16_000)
    return names


def test_packing(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = make_clips(tmp_path / "audio", 40)
    labels, out, parts = tmp_path / "labels.tsv", tmp_path / "out.hdf", tmp_path / "out.hdf.parts"
    rows = [f"{name}\t0\t1\t{DOG}\n" for name in names]
    labels.write_text("segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n" + "".join(rows))
    request = ["--audio", tmp_path / "audio", "--labels", labels, "--out", out, "--workers", 2]
    small = "from data_util import pack; pack.BATCH = 4"
    command = start("data_util.pack", *request, hook="_write_part", set_up=small)
    until(lambda: len(list(parts.glob("0*.hdf"))) >= 2)
    assert command.n_processes() >= 3
    command.send("group", signal.SIGTERM)
    code, line = command.end()
    done = {path: path.stat().st_mtime_ns for path in parts.glob("0*.hdf")}
    assert (code, line) == (143, f"terminated: {4 * len(done)} of 40 clips are in {parts}; the same command resumes")
    assert 2 <= len(done) < 10 and not out.exists() and not unfinished(tmp_path)

    kept: list[Path] = []
    merge = pack_module._merge
    monkeypatch.setattr(pack_module, "BATCH", 4)
    monkeypatch.setattr(
        pack_module,
        "_merge",
        lambda *args: (kept.extend(p for p in done if p.stat().st_mtime_ns == done[p]), merge(*args)),
    )
    pack_module.main([str(word) for word in request])
    assert len(Mp3File(out)) == 40 and len(kept) == len(done)


def test_pseudo_labels(start: Start, synthetic_dir: Path, teacher: Path, tmp_path: Path) -> None:
    out, parts = tmp_path / "teacher.hdf", tmp_path / ".teacher.hdf.parts"
    shared = ["--accelerator=cpu", "--num_workers=2", "--batch_size=2"]
    request = [f"--data_dir={synthetic_dir}", "--teachers", teacher, f"--out={out}", *shared]
    command = start("make_pseudo_labels", *request)
    until(lambda: list(parts.glob("0*.hdf")))
    command.send("group", signal.SIGTERM)
    code, line = command.end()
    n_done = len(list(parts.glob("0*.hdf")))
    assert (code, line) == (143, f"terminated: {n_done} of 12 batches are in {parts}; the same command resumes")
    assert 1 <= n_done < 12 and not out.exists() and not unfinished(parts)
    make_pseudo_labels.main([str(word) for word in request])
    assert out.exists() and not parts.exists()


def test_a_killed_command_leaves_no_process(start: Start, tmp_path: Path) -> None:
    """SIGKILL to the main process alone: those of a pool see it, too."""
    out = tmp_path / "data"
    command = start("data_util.synthetic", "--out", out, "--train", 400, "--workers", 2)
    until(lambda: out.exists() and unfinished(tmp_path) and command.n_processes() >= 3)
    time.sleep(0.3)
    command.send("main", signal.SIGKILL)
    assert command.end()[0] == -signal.SIGKILL


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_inference_over_a_folder(
    start: Start, teacher: Path, tmp_path: Path, number: int, code: int, word: str
) -> None:
    make_clips(tmp_path / "audio", 12)
    out = tmp_path / "out"
    request = [f"--checkpoint={teacher}", f"--audio_file={tmp_path / 'audio'}", f"--out={out}"]
    formats = ["--format", "tsv", "scores_hdf5", "--detection_thresholds", "0.5"]
    command = start("inference", *request, *formats, hook="write")
    until(lambda: len(list(out.glob("*.tsv"))) >= 2)
    command.send("group", number)
    ended, line = command.end()
    n_done = len(list(out.glob("*.tsv")))
    assert ended == code and line.startswith(word)
    # the last one was interrupted when its file was there, and before it was noted
    assert line.endswith(f": {n_done - 1} of 12 files are done in {out}; the same command with --skip_existing resumes")
    assert 2 <= n_done < 12 and len((out / "summary.csv").read_text().splitlines()) == n_done
    assert not unfinished(out)
    command = start("inference", *request, *formats, "--skip_existing")
    assert command.end(SECONDS)[0] == 0
    assert len(list(out.glob("*.tsv"))) == len(list(out.glob("*.h5"))) == 12


def test_a_killed_inference_goes_on_to_the_same_bytes(start: Start, tmp_path: Path) -> None:
    """Files of one window share batches: with whom must not depend on timing, readers, or what is done already."""
    make_clips(tmp_path / "audio", 14)
    (tmp_path / "audio" / "clip13.wav").write_bytes(b"no audio")  # in the middle: clip1, clip10, ..., clip13, clip2
    torch.manual_seed(0)
    # scores of a sequence model depend on the size of the batch
    model = calibrated_model(create_model("fmn04", seq_model_type="tf", seq_model_dim=64))
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    weights = tmp_path / "model.ckpt"
    torch.save({"state_dict": state, METADATA_KEY: {**model.metadata(), "untrained": []}}, weights)
    request = [f"--checkpoint={weights}", f"--audio_file={tmp_path / 'audio'}", "--window=1", "--overlap=0.2"]
    request += ["--batch_size=4", "--format", "scores_tsv", "csv", "--detection_thresholds", "0.01"]

    def run(name: str, *more: str) -> dict[str, bytes]:
        assert start("inference", *request, f"--out={tmp_path / name}", *more).end(SECONDS)[0] == 3
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file() and not path.name.startswith(".")]
        return {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files if path.stem != "summary"}

    whole = run("whole", "--num_readers=1")
    assert len(whole) == 2 * 13 + 2 and whole == run("three", "--num_readers=3")
    out = tmp_path / "killed"
    command = start("inference", *request, f"--out={out}", hook="write")
    until(lambda: len(list(out.glob("*.csv"))) >= 3)
    command.send("main", signal.SIGKILL)
    assert command.ask(do="wait", pid=command.pid, seconds=GRACE) == -signal.SIGKILL  # before it could print anything
    assert len(list(out.glob("clip*.csv"))) < 13
    assert run("killed", "--skip_existing", "--num_readers=3") == whole
    assert run("other", "--batch_size=1") != whole


@pytest.mark.parametrize("layout", ["audioset", "esc50"])
def test_synthetic_data(start: Start, tmp_path: Path, layout: str) -> None:
    out = tmp_path / "data"
    size = ["--train", 400, "--eval", 100] if layout == "audioset" else ["--train", 2000, "--seconds", 5]
    command = start("data_util.synthetic", "--out", out, "--layout", layout, *size)
    until(lambda: out.exists() and unfinished(tmp_path))
    time.sleep(0.3)
    command.send("group", signal.SIGTERM)
    how = f"{out} is not whole; to make it: the same command with --overwrite"
    assert command.end() == (143, f"terminated: {how}")
    assert not unfinished(tmp_path)
