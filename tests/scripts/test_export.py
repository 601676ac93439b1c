"""The command line of export.py, and what inference.py makes of its files: every backend and format agrees.

The recording and the model of the last tests can be others: AGREE_AUDIO=FILE AGREE_CHECKPOINT=FILE pytest ...
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import export
import inference
import models
from helpers.backends import TorchBackend
from helpers.detector import Detector
from helpers.exporting import export_onnx
from helpers.results import ALL_FORMATS
from helpers.runtimes import OnnxBackend
from tests.equality import assert_equal_outputs
from tests.golden_recipe import calibrated_model, wave

for package in ("onnx", "onnxscript", "onnxruntime", "openvino", "pyarrow", "webvtt", "srt"):
    pytest.importorskip(package)

ROOT = Path(__file__).resolve().parents[2]
AUDIO = Path(os.environ.get("AGREE_AUDIO", ROOT / "test_files" / "example.wav"))
CHECKPOINT = os.environ.get("AGREE_CHECKPOINT")
MODEL = ["--model_name=fmn04", "--seq_model_type=gru", "--seq_model_dim=64"]  # recurrent layers export quickly
LINE = re.compile(r"(\w+), (\d) x ([\d.]+) s: (\S+), (\d+) of (\d+) active frames differ")
RUNS = {
    "torch": ("", "torch"),
    "onnxruntime": (".onnx", "onnxruntime"),
    "openvino": (".xml", "openvino"),
    "openvino_onnx": (".onnx", "openvino"),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random weights that hear a few classes in each frame, with probabilities of all sizes."""
    torch.manual_seed(0)
    model = models.create_model("fmn04", seq_model_type="gru", seq_model_dim=64)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        model.strong_head.weight *= 20
        model.strong_head.bias -= 3
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory) -> SimpleNamespace:
    """The result of one run: exit code, output, files by ending, the options that name the model."""
    model = [f"--checkpoint={CHECKPOINT}"] if CHECKPOINT else [*MODEL, f"--checkpoint={weights}"]
    out, printed = tmp_path_factory.mktemp("exports"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = export.main([*model, f"--out={out}", "--format", *export.FORMATS])
    files = {path.suffix: path for path in out.iterdir()}
    return SimpleNamespace(code=code, printed=printed.getvalue(), files=files, model=model)


def test_files_and_parity_report(exported):
    assert exported.code == 0
    assert {".onnx", ".xml", ".bin", ".pt"} <= exported.files.keys()
    lines = LINE.findall(exported.printed)
    trials = [(n, f"{seconds:g}") for n, seconds in ((1, 10), (3, 10), (2, 4.21), (1, 13.7))]
    runtimes = ("onnxruntime", "openvino", "openvino", "torchscript")
    assert [(name, int(n), seconds) for name, n, seconds, *_ in lines] == [(r, *t) for r in runtimes for t in trials]
    for *_, largest, n_flips, n_active in lines:
        assert float(largest) < 1e-4 and int(n_flips) <= 0.01 * int(n_active)
    assert all(str(path) in exported.printed for suffix, path in exported.files.items() if suffix in (".onnx", ".xml"))


def test_an_exported_model_reacts_to_the_audio(tmp_path):
    """The weights above give nearly the same for any audio; those of this model do not, so equality means more."""
    model = calibrated_model(models.create_model("fmn04", seq_model_type="gru", seq_model_dim=64))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    options = [f"--checkpoint={tmp_path / 'weights.pt'}", f"--out={tmp_path}", "--format=onnx"]
    assert export.main([*MODEL, *options]) == 0
    (path,) = tmp_path.glob("*.onnx")
    tolerance = (3e-4, 2e-5)  # of the probabilities of frames and clip; random networks magnify rounding
    clips = wave(2, 160_000).numpy()[:, None]
    assert_equal_outputs(OnnxBackend(path), TorchBackend(model), *clips, tolerance)


def test_half_the_size(exported, tmp_path, capsys):
    assert export.main([*exported.model, f"--out={tmp_path}", "--format=onnx", "--half"]) == 0
    (path,) = tmp_path.glob("*.onnx")
    assert path.stat().st_size < 0.7 * exported.files[".onnx"].stat().st_size
    differences = [float(line[3]) for line in LINE.findall(capsys.readouterr().out)]
    assert len(differences) == 8 and all(1e-6 < d < 0.02 for d in differences)


def test_a_file_that_differs_ends_in_one_line_and_code_2(exported, monkeypatch, capsys):
    """Whatever a runtime raises for a size is reported; what it gets wrong is refused."""
    right = OnnxBackend(exported.files[".onnx"])

    def wrong(waveforms: np.ndarray) -> np.ndarray:
        if len(waveforms) == 3:
            raise RuntimeError("no batches of three")
        return right(waveforms)[0] + 0.25

    monkeypatch.setattr(export, "_export", lambda *_: [exported.files[".onnx"]])
    monkeypatch.setattr(export, "_runners", lambda _: {"mine": wrong})
    with pytest.raises(SystemExit) as stop:
        export.main(exported.model)
    captured = capsys.readouterr()
    assert stop.value.code == 2 and "3 x 10 s: not possible (RuntimeError)" in captured.out
    assert captured.err.count("\n") == 1 and "differs by 0.25" in captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--audio_file={folder}/missing.wav"], "missing.wav"),
        (["--audio_file={text}"], "cannot be read as audio"),
        (["--checkpoint={folder}/missing.pt"], "missing.pt"),
        (["--out={text}"], "--out is "),
        (["--format", "onnx", "coreml"], "--format is coreml"),
        (["--format=torchscript", "--out={folder}"], "--overwrite"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(weights, tmp_path, capsys, options, message):
    text, foreign = tmp_path / "notes.txt", tmp_path / "fmn04+gru-64.torchscript.pt"
    for path in (text, foreign):
        path.write_text("my own notes " * 9)
    words = [word.format(folder=tmp_path, text=text) for word in options]
    with pytest.raises(SystemExit) as stop:
        export.main([*MODEL, f"--checkpoint={weights}", f"--out={tmp_path / 'out'}", *words])
    captured = capsys.readouterr()
    assert stop.value.code == 2 and message in captured.err and captured.err.count("\n") == 1
    assert foreign.read_text() == text.read_text() and not (tmp_path / "out").exists()


def lines_of_the_docs() -> str:
    """The example of plain ONNX Runtime in docs/detection.md."""
    text = (ROOT / "docs" / "detection.md").read_text(encoding="utf-8")
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "onnxruntime" in code]
    return code


@pytest.mark.parametrize("tuned", [False, True])
def test_ten_lines_of_plain_onnxruntime_print_the_events(exported, tmp_path, monkeypatch, capsys, tuned):
    import onnx

    graph = onnx.load(exported.files[".onnx"])
    if tuned:
        (about,) = [item for item in graph.metadata_props if item.key == "efficientsed"]
        content = json.loads(about.value)
        about.value = json.dumps({**content, "class_thresholds": list(np.linspace(0.3, 0.9, len(content["labels"])))})
    onnx.save(graph, tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "recording.wav", 0.1 * rng.standard_normal(160_000), 16_000, "FLOAT")
    monkeypatch.chdir(tmp_path)
    exec(lines_of_the_docs(), {})
    printed = [tuple(line.split(maxsplit=2)) for line in capsys.readouterr().out.splitlines()]
    thresholds = {} if tuned else {"detection_thresholds": [0.5]}
    detector = Detector(OnnxBackend(tmp_path / "model.onnx"), median_window=1, **thresholds)
    events = detector.detect(tmp_path / "recording.wav").events
    assert list(detector.decoding.thresholds) == (["class"] if tuned else ["0.5"])
    expected = [(f"{e.onset:.2f}", f"{e.offset:.2f}", e.label) for e in events]
    assert len(expected) > 20 and sorted(printed) == sorted(expected)


def test_the_lines_of_the_docs_refuse_another_rate_and_mix_channels(tmp_path, monkeypatch, capsys):
    model = models.create_model("fmn04", seq_model_type="gru", seq_model_dim=64)
    calibrated_model(model)
    export_onnx(model, tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    noise = 0.1 * np.random.default_rng(0).standard_normal(160_000)
    soundfile.write("recording.wav", noise, 32_000, "FLOAT")
    with pytest.raises(SystemExit, match="expected 16000 Hz, got 32000 Hz; resample the recording first"):
        exec(lines_of_the_docs(), {})
    assert capsys.readouterr().out == ""
    frames = []
    tone = 0.1 * np.sin(np.arange(160_000) / 5)
    for channels in ([noise], [2 * noise, 0 * noise], [noise, tone]):
        soundfile.write("recording.wav", np.stack(channels, axis=1), 16_000, "FLOAT")
        names: dict[str, np.ndarray] = {}
        exec(lines_of_the_docs(), names)
        frames.append(names["frames"])
    np.testing.assert_allclose(frames[1], frames[0], atol=1e-5)
    assert np.abs(frames[2] - frames[0]).max() > 1e-2


@pytest.mark.parametrize("sequence", [None, "gru"])  # both exporters
def test_the_axes_have_names(sequence, tmp_path):
    import onnxruntime

    model = models.create_model("fmn04", seq_model_type=sequence, seq_model_dim=64)
    export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    shapes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    assert shapes == {"waveform": ["batch", "samples"], "frames": ["batch", 447, "frames"], "clip": ["batch", 447]}
    for n, seconds in ((1, 10), (3, 4)):  # names bind nothing
        frames, _ = session.run(None, {"waveform": np.zeros((n, 16_000 * seconds), np.float32)})
        assert frames.shape == (n, 447, 25 * seconds)


# ---- agreement of backends and formats ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(exported, tmp_path_factory) -> dict[str, Path]:
    """All formats of one recording as each backend gives them; name of the run -> folder."""
    folders = {}
    for name, (ending, backend) in RUNS.items():
        folders[name] = tmp_path_factory.mktemp(name)
        model = [f"--checkpoint={exported.files[ending]}"] if ending else exported.model
        options = [f"--backend={backend}", f"--audio_file={AUDIO}", f"--out={folders[name]}"]
        code = inference.main([*model, *options, "--detection_thresholds", "0.5", "--format", *ALL_FORMATS])
        assert code == 0
    return folders


def read_table(table: pd.DataFrame, onset="onset", offset="offset", label="label") -> list[tuple[float, float, str]]:
    return list(zip(table[onset], table[offset], table[label], strict=True))


def read_json(path: Path) -> list[tuple[float, float, str]]:
    return read_table(pd.DataFrame(json.loads(path.read_text())["events"]["0.5"], columns=["onset", "offset", "label"]))


def read_audacity(path: Path) -> list[tuple[float, float, str]]:
    return read_table(pd.read_csv(path, sep="\t", names=["onset", "offset", "label"], quoting=3))


def read_rttm(path: Path) -> list[tuple[float, float, str]]:
    rows = [line.split() for line in path.read_text().splitlines()]
    return [(float(row[3]), float(row[3]) + float(row[4]), row[7]) for row in rows]


def read_vtt(path: Path) -> list[tuple[float, float, str]]:
    import html

    import webvtt

    def seconds(time: str) -> float:
        return sum(float(part) * 60**i for i, part in enumerate(reversed(time.split(":"))))

    def label(text: str) -> str:
        return html.unescape(re.sub(r" \([\d.]+\)$", "", text))  # without its score

    return [(seconds(cue.start), seconds(cue.end), label(cue.raw_text)) for cue in webvtt.read(str(path))]


def read_srt(path: Path) -> list[tuple[float, float, str]]:
    import srt

    return [
        (cue.start.total_seconds(), cue.end.total_seconds(), re.sub(r" \([\d.]+\)$", "", cue.content))
        for cue in srt.parse(path.read_text())
    ]


def read_label_studio(path: Path) -> list[tuple[float, float, str]]:
    (task,) = json.loads(path.read_text())
    regions = [region["value"] for prediction in task["predictions"] for region in prediction["result"]]
    return [(region["start"], region["end"], region["labels"][0]) for region in regions]


READERS = {
    "{}.tsv": lambda path: read_table(pd.read_csv(path, sep="\t"), label="event_label"),
    "{}.csv": lambda path: read_table(pd.read_csv(path)),
    "{}.json": read_json,
    "{}.jsonl": lambda path: read_table(pd.read_json(path, lines=True)) if path.stat().st_size else [],
    "{}.audacity.txt": read_audacity,
    "{}.raven.txt": lambda path: read_table(
        pd.read_csv(path, sep="\t", quoting=3), "Begin Time (s)", "End Time (s)", "Annotation"
    ),
    "{}.rttm": read_rttm,
    "{}.vtt": read_vtt,
    "{}.srt": read_srt,
    "{}.label_studio.json": read_label_studio,
    "{}.parquet": lambda path: read_table(pd.read_parquet(path)),
}


def events(folder: Path, name: str) -> list[tuple[int, int, str]]:
    """Onsets and offsets (ms) and labels as one format has them, sorted."""
    rows = READERS[name](folder / name.format(AUDIO.stem))
    return sorted((round(1000 * on), round(1000 * off), "_".join(str(label).split())) for on, off, label in rows)


@pytest.mark.parametrize("run", RUNS)
def test_all_formats_tell_of_the_same_events(results, run):
    expected = events(results[run], "{}.csv")
    assert len(expected) > 20 or CHECKPOINT
    for name in READERS:
        assert events(results[run], name) == expected, name


def test_all_formats_are_compared():
    others = {"scores_tsv", "scores_hdf5"}
    assert len(READERS) == len(set(ALL_FORMATS) - others) and others < set(ALL_FORMATS)


def scores(folder: Path) -> np.ndarray:
    """The frame scores [T, C], read from both formats."""
    import h5py
    from sed_scores_eval import io as readers

    table = readers.read_sed_scores(folder / "scores")[AUDIO.stem].to_numpy()[:, 2:]
    with h5py.File(folder / f"{AUDIO.stem}.scores.h5") as file:
        np.testing.assert_allclose(file["scores"][:], table, atol=5e-4)  # float16
    return table.astype(float)


@pytest.mark.parametrize("run", [run for run in RUNS if run != "torch"])
def test_all_backends_hear_the_same(results, run):
    np.testing.assert_allclose(scores(results[run]), scores(results["torch"]), atol=1e-4)
    got, expected = (set(events(results[name], "{}.csv")) for name in (run, "torch"))
    assert len(got ^ expected) <= 0.01 * len(expected)
