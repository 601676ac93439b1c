"""Every writer on a disk without room: an OSError that names the file, nothing half written, and no crash.

A limit on the size of files (`ulimit -f`) makes writing fail midway on every machine; small file systems of their own
(tmpfs) are full as a disk is, where mounting is allowed.
"""

from __future__ import annotations

import errno
import io
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile

from atomic import LibraryFile, replacing
from data_util.audio_output import write_audio
from data_util.hdf5_dataset import PackedRows
from data_util.hdf5_output import create_hdf5
from data_util.pseudo_labels import LogitsWriter
from errors import describe
from helpers.classes import ClassName
from helpers.outputs import OutputFolder
from helpers.pipeline import Job
from helpers.psds_scores import ScoreWriter, write_score_tsv
from helpers.results import ResultWriter
from helpers.score_files import SCORE_FORMATS

ROOT = Path(__file__).parents[1]
FULL = {errno.ENOSPC, errno.EFBIG}
NOISE = np.random.default_rng(0)
Writer = Callable[[Path], None]


@contextmanager
def size_limit(n_bytes: int) -> Iterator[None]:
    """Let this process write no file beyond a size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def mounted(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system of so many kilobytes at a folder."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no command mount")
    if done.returncode:
        pytest.skip("mounting a small file system is not permitted")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(params=["limit", "full from the start", "fills midway"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder in which files of more than about 64 KB cannot be written."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "limit":
        with size_limit(1 << 16):
            yield folder
        return
    with mounted(folder, 64):
        if request.param == "full from the start":
            with suppress_full(), (folder / "filling").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        yield folder


@contextmanager
def suppress_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        assert error.errno in FULL


def packed(path: Path) -> None:
    with replacing(path) as part, create_hdf5(part) as file:
        rows = PackedRows(file, [f"Y{i:011d}" for i in range(50)])
        for row in range(50):
            rows.write(row, NOISE.bytes(5000), np.zeros(66, np.uint8))


def logits(path: Path, compact: bool) -> None:
    with replacing(path) as part, create_hdf5(part) as file, LogitsWriter(file, (447, 250), compact=compact) as writer:
        for i in range(20):
            row = NOISE.integers(0, 255, 20_000).astype(np.uint8) if compact else NOISE.normal(size=(447, 250))
            writer.write([b"Y%d" % i], [row])


def psds_scores(path: Path) -> None:
    with ScoreWriter(path, [str(i) for i in range(50)]) as writer:
        for i in range(20):
            writer.add([str(i)], NOISE.random((1, 50, 250)))


def frame_scores(path: Path, form: str) -> None:
    with OutputFolder(path.parent).staged(path.name) as part:
        file = SCORE_FORMATS[form][1](part, [ClassName(str(i), "") for i in range(50)])
        for _ in range(40):
            file.add(NOISE.random((50, 250)).astype(np.float32))
        file.close(400.0)


def clip(path: Path) -> None:
    samples = NOISE.uniform(-1, 1, (100_000, 2))
    OutputFolder(path.parent).write(path.name, lambda part: write_audio(part, samples, 16_000, subtype="PCM_16"))


def compressed(path: Path, form: str) -> None:
    with replacing(path) as part:
        write_audio(part, NOISE.uniform(-1, 1, 2_000_000), 16_000, form=form)


def picture(path: Path) -> None:
    from helpers.plots import plot_events

    decibels = (-80 * NOISE.random((128, 2000))).astype(np.float32)  # noise fills more than the limits
    OutputFolder(path.parent).write(path.name, lambda part: plot_events(part, decibels, 20.0, [], None, "a"))


def parquet(path: Path) -> None:
    from helpers.detection import Detection
    from helpers.event_files import Contents, write_events
    from helpers.events import decode_events

    pytest.importorskip("pyarrow")
    classes = [ClassName(str(i), "") for i in range(20)]
    table = decode_events(NOISE.random((20, 4000)).astype(np.float32), classes, 0.5, duration=160.0)
    detection = Detection("a.wav", 160.0, classes, {"0.5": table}, np.zeros(20))
    write_events(OutputFolder(path.parent), "parquet", path.stem, Contents("a.wav", detection, []))


def onnx_graph(path: Path) -> None:
    """A product with 360 kB of weights."""
    onnx = pytest.importorskip("onnx")
    from helpers.backends import METADATA

    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    weights = onnx.numpy_helper.from_array(NOISE.random((300, 300)).astype(np.float32), "w")
    ends = [make.make_tensor_value_info(name, kind, ["b", 300]) for name in ("waveform", "frames")]
    product = make.make_node("MatMul", ["waveform", "w"], ["frames"])
    graph = make.make_graph([product], "g", ends[:1], ends[1:], [weights])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=9)
    model.metadata_props.add(key=METADATA, value="{}")
    OutputFolder(path.parent).write(path.name, lambda part: onnx.save(model, part))


def text(path: Path) -> None:
    OutputFolder(path.parent).write_text(path.name, "x" * 200_000)


def checkpoint(path: Path) -> None:
    import torch

    from helpers.run_folder import write_checkpoint

    buffer = io.BytesIO()
    torch.save({"x": torch.rand(100_000)}, buffer)
    write_checkpoint(path, buffer.getbuffer())


WRITERS: dict[str, Writer] = {
    "packed.hdf": packed,
    "dense.hdf": lambda path: logits(path, compact=False),
    "compact.hdf": lambda path: logits(path, compact=True),
    "scores.h5": psds_scores,
    "scores.tsv": lambda path: write_score_tsv(
        path.parent, path.stem, NOISE.random((50, 250)), np.arange(251) / 25, [str(i) for i in range(50)]
    ),
    "frames.h5": lambda path: frame_scores(path, "scores_hdf5"),
    "frames.tsv": lambda path: frame_scores(path, "scores_tsv"),
    "clip.wav": clip,
    "sound.flac": lambda path: compressed(path, "FLAC"),
    "sound.mp3": lambda path: compressed(path, "MP3"),
    "events.png": picture,
    "events.parquet": parquet,
    "model.onnx": onnx_graph,
    "page.html": text,
    "last.ckpt": checkpoint,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_names_its_file_and_leaves_nothing(small_disk: Path, name: str) -> None:
    before = sorted(small_disk.iterdir())
    with pytest.raises(OSError) as trouble:
        WRITERS[name](small_disk / name)
    assert trouble.value.errno in FULL
    assert describe(trouble.value).startswith(f"{small_disk / name}: ")
    assert sorted(small_disk.iterdir()) == before


@pytest.mark.parametrize("name", WRITERS)
def test_where_there_is_room_they_write(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert (tmp_path / name).stat().st_size > 1 << 16


@pytest.mark.parametrize(("form", "name"), [("scores_hdf5", "a.scores.h5"), ("scores_tsv", "scores/a.tsv")])
def test_scores_of_a_run_name_the_file_that_they_were_to_become(tmp_path: Path, form: str, name: str) -> None:
    classes = [ClassName(str(i), "") for i in range(50)]
    detector = SimpleNamespace(classes=classes, decoding=SimpleNamespace(thresholds=["0.5"]))
    writer = ResultWriter(OutputFolder(tmp_path), [form], detector)  # type: ignore[arg-type]
    sink = writer.sink(Job(tmp_path / "a.wav", key="a"))
    assert sink is not None
    with size_limit(1 << 16), pytest.raises(OSError) as trouble:
        for _ in range(600):  # more than HDF5 keeps in memory
            sink(NOISE.random((50, 250)).astype(np.float32))
    assert describe(trouble.value).startswith(f"{tmp_path / name}: ")
    writer.close()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_clips_leave_no_folder_without_files(tmp_path: Path) -> None:
    from helpers.clips import cut_clips
    from helpers.events import decode_events

    write_audio(tmp_path / "a.wav", NOISE.uniform(-1, 1, 80_000), 16_000)
    scores = np.zeros((1, 125), np.float32)
    scores[0, 10:20] = scores[0, 40:120] = 1  # 0.4 s and 3.2 s, of which the limit leaves room for the first
    table = decode_events(scores, [ClassName("Siren", "")], 0.5, duration=5.0)
    assert len(table) == 2
    for n_bytes, left in ((1000, 0), (20_000, 1), (1 << 30, 2)):
        with size_limit(n_bytes), suppress_full():
            cut_clips(OutputFolder(tmp_path / "clips"), str(tmp_path / "a.wav"), "a", table, None)
        assert len(list((tmp_path / "clips").rglob("*.wav"))) == left
        assert (tmp_path / "clips").exists() == (left > 0)
    with size_limit(1000), suppress_full():
        cut_clips(OutputFolder(tmp_path / "clips"), str(tmp_path / "a.wav"), "b", table, None)
    assert [path.name for path in (tmp_path / "clips").iterdir() if path.is_dir()] == ["a"]


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for path in (tmp_path / "mine" / "a", tmp_path / "new" / "deep" / "a"):
        with size_limit(0), pytest.raises(OSError, match="too large"), replacing(path) as part:
            part.write_bytes(b"abc")
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


def test_openvino_names_its_file_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    from helpers.exporting import export_openvino

    onnx_graph(tmp_path / "a.onnx")
    disk = tmp_path / "disk"

    def write() -> None:
        folder = OutputFolder(disk)
        with folder.staged("m.bin") as weights, folder.staged("m.xml") as graph:
            export_openvino(tmp_path / "a.onnx", graph)
            graph.with_suffix(".bin").rename(weights)

    for n_bytes in (0, 1000, 1 << 16, 350_000):  # nothing, within the graph, within the weights, at their end
        with size_limit(n_bytes), pytest.raises(OSError) as trouble:
            write()
        assert describe(trouble.value).startswith(f"{disk / 'm.xml'}: the disk is full")
        assert not list(disk.glob("*"))
    write()
    assert (disk / "m.bin").stat().st_size == 4 * 300 * 300 and (disk / "m.xml").stat().st_size > 1000


@pytest.mark.parametrize("n_bytes", [0, 100, 2000, 5000, 20_000, 70_000, 131_072, 400_000, 1_000_000])
def test_hdf5_survives_wherever_the_room_ends(tmp_path: Path, n_bytes: int) -> None:
    """h5py alone ends such a process by a segmentation fault."""
    with size_limit(n_bytes), pytest.raises(OSError, match="too large"), create_hdf5(tmp_path / "a.hdf") as file:
        rows = file.create_dataset("rows", (0, 500), np.float32, maxshape=(None, 500), chunks=(1, 500))
        bytes_of = file.create_dataset("bytes", (600,), h5py.vlen_dtype(np.uint8))
        for i in range(600):
            rows.resize(i + 1, axis=0)
            rows[i] = i
            bytes_of[i] = np.full(i, i % 256, np.uint8)
            if i % 200 == 199:  # long after the first failure: what was lost is read back right
                assert rows[3, 0] == 3 and bytes_of[5].tolist() == [5] * 5
                file.check()
    with h5py.File(io.BytesIO(), "w"):  # the library still works
        pass


def test_a_library_reads_back_what_could_not_be_written(tmp_path: Path) -> None:
    """Equal to a file in memory, whatever is written, read and cut where."""
    with size_limit(1000):
        ours, plain = LibraryFile(tmp_path / "a"), io.BytesIO()
        for _ in range(300):
            place, size = int(NOISE.integers(3000)), int(NOISE.integers(1, 400))
            data = NOISE.bytes(size)
            for file in (ours, plain):
                file.seek(place)
                assert file.write(data) == size
            place = int(NOISE.integers(3000))
            got: list[bytes] = []
            for file in (ours, plain):
                file.seek(place)
                got.append(file.read(500))
            assert got[0] == got[1]
        assert ours.seek(0, os.SEEK_END) == plain.seek(0, os.SEEK_END)
        with pytest.raises(OSError, match="too large"):
            ours.check()
        ours.close()


def test_files_are_the_same_as_those_of_the_libraries(tmp_path: Path) -> None:
    samples = NOISE.uniform(-1, 1, (5000, 2))
    for name, subtype in (("a.wav", "PCM_24"), ("b.flac", "PCM_16"), ("c.ogg", None), ("d.wav", "FLOAT")):
        write_audio(tmp_path / name, samples, 44_100, subtype=subtype)
        soundfile.write(tmp_path / f"plain_{name}", samples, 44_100, subtype=subtype)
        got, rate = soundfile.read(tmp_path / name)
        assert rate == 44_100 and np.array_equal(got, soundfile.read(tmp_path / f"plain_{name}")[0])


def limited(command: list[str], n_bytes: int) -> subprocess.CompletedProcess[str]:
    """A command that can write no file beyond a size."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": os.devnull}
    return subprocess.run(
        [sys.executable, *command], preexec_fn=limit, env=environment, cwd=ROOT, capture_output=True, text=True
    )


def one_line_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2 and "Traceback" not in done.stderr, (done.returncode, done.stderr)
    return done.stderr.rstrip().splitlines()[-1]


def test_torchscript_ends_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    import torch

    from models import create_model

    torch.save(create_model("fmn04").state_dict(), tmp_path / "weights.pt")
    command = ["export.py", "--model_name=fmn04", f"--checkpoint={tmp_path / 'weights.pt'}", "--format=torchscript"]
    line = one_line_of(limited([*command, f"--out={tmp_path / 'out'}"], 1_000_000))
    assert line.startswith(f"error: {tmp_path / 'out'}/fmn04.torchscript.pt: the file is larger than this disk")
    assert not (tmp_path / "out").exists()


def test_packing_ends_in_one_line_and_resumes(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    lines = ["segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"]
    for i in range(6):
        write_audio(tmp_path / "audio" / f"clip{i:07d}.wav", NOISE.uniform(-1, 1, 160_000), 16_000)
        lines.append(f"clip{i:07d}_0\t0.0\t1.0\t/m/09x0r\n")
    (tmp_path / "labels.tsv").write_text("".join(lines))
    code = "import sys; from data_util import pack; pack.BATCH = 2; pack.main(sys.argv[1:])"
    arguments = ["--audio", tmp_path / "audio", "--labels", tmp_path / "labels.tsv", "--workers", "1"]
    command = ["-c", code, *map(str, arguments), "--out"]
    whole, out = tmp_path / "whole.hdf", tmp_path / "out.hdf"
    assert limited([*command, str(whole)], 1 << 30).returncode == 0
    for n_bytes in (100_000, whole.stat().st_size // 2):  # within the first batch; while they are joined
        assert one_line_of(limited([*command, str(out)], n_bytes)).startswith(f"error: {tmp_path / 'out.hdf'}")
        assert not out.exists()
    assert len(list((tmp_path / "out.hdf.parts").glob("0*.hdf"))) == 3
    assert limited([*command, str(out)], 1 << 30).returncode == 0
    with h5py.File(whole) as first, h5py.File(out) as second:
        for name in ("audio_name", "target"):
            assert np.array_equal(first[name][:], second[name][:])
        assert all(np.array_equal(a, b) for a, b in zip(first["mp3"][:], second["mp3"][:], strict=True))


@pytest.mark.parametrize(
    "layout", [["--layout=audioset", "--workers=1"], ["--layout=dcase2016task2", "--seconds=10"], ["--layout=esc50"]]
)
def test_synthetic_data_end_in_one_line(tmp_path: Path, layout: list[str]) -> None:
    command = ["-m", "data_util.synthetic", f"--out={tmp_path / 'set'}", "--train=1", "--eval=1", *layout]
    line = one_line_of(limited(command, 30_000))
    assert line.startswith(f"error: {tmp_path / 'set'}") and "larger" in line
    done: Any = limited([*command, "--overwrite"], 1 << 30)
    assert done.returncode == 0, done.stderr
