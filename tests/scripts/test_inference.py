"""The command line of inference.py: what it prints and writes, and how it refuses bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image

import inference
from tests.tone_model import ToneModel, tones

ROOT = Path(__file__).resolve().parents[2]
EVENTS = [(1.0, 2.0, "Sine wave"), (8.8, 12.0, "Siren")]


@pytest.fixture
def audio_file(tmp_path) -> Path:
    path = tmp_path / "street corner.wav"
    soundfile.write(path, tones(15, EVENTS, 44_100), 44_100)
    return path


@pytest.fixture
def tone_model(monkeypatch):
    monkeypatch.setattr("helpers.detector.load_torch_model", lambda *_, **__: ToneModel())


def test_events_are_printed_and_written(tone_model, audio_file, tmp_path, capsys):
    out = tmp_path / "out"
    command = [f"--audio_file={audio_file}", f"--out={out}"]
    assert inference.main([*command, "--detection_thresholds", "0.5"]) == 0
    table = pd.read_csv(out / "street corner.tsv", sep="\t")
    assert table.filename.tolist() == ["street corner.wav"] * 2
    assert table.event_label.tolist() == ["Sine wave", "Siren"]
    np.testing.assert_allclose(table[["onset", "offset"]], [e[:2] for e in EVENTS], atol=0.041)
    printed = capsys.readouterr().out
    assert "2 events above 0.5" in printed and "8.800     12.000  Siren" in printed and str(out) in printed
    assert inference.main([*command, "--detection_thresholds", "0.5"]) == 0  # our own files are replaced


def test_published_thresholds_give_three_lists(tone_model, audio_file, tmp_path, capsys):
    inference.main([f"--audio_file={audio_file}", f"--out={tmp_path / 'out'}"])
    names = sorted(p.name for p in (tmp_path / "out").glob("*.tsv"))
    assert names == [f"street corner.above{t}.tsv" for t in ("0.1", "0.2", "0.5")]
    assert capsys.readouterr().out.count("events above") == 3


def test_the_picture_with_true_events(tone_model, audio_file, tmp_path):
    (tmp_path / "true.tsv").write_text(
        "filename\tonset\toffset\tevent_label\nstreet corner.wav\t1\t2\t/m/01v_m0\n", encoding="utf-8"
    )
    out = tmp_path / "out"
    inference.main([f"--audio_file={audio_file}", f"--out={out}", "--plot", f"--true_events={tmp_path / 'true.tsv'}"])
    assert Image.open(out / "street corner.png").size[0] == 1800


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--audio_file={missing}"], "missing.wav' does not exist"),
        (["--audio_file={empty}"], "empty.wav' is empty"),
        (["--audio_file={text}"], "text.wav' cannot be read as audio"),
        (["--audio_file={good}", "--detection_thresholds", "0.5", "1.2"], "--detection_thresholds is 1.2"),
        (["--audio_file={good}", "--detection_thresholds", "much"], "--detection_thresholds is much"),
        (["--audio_file={good}", "--median_window=4"], "--median_window is 4"),
        (["--audio_file={good}", "--model_name=fmn11"], "did you mean fmn1"),
        (["--audio_file={good}", "--pretrained=scratch", "--seq_model_type=transformer"], "--seq_model_type is"),
        (["--audio_file={good}", "--checkpoint={missing}"], "missing.wav"),
        (["--audio_file={good}", "--checkpoint={text}"], "text.wav' cannot be read as weights"),
        (["--audio_file={good}", "--true_events={missing}"], "true events"),
        (["--audio_file={good}", "--cuda", "--device=cpu"], "contradicts --cuda"),
        (["--audio_file={good}", "--tresholds", "0.5"], "unknown option '--tresholds'"),
        ([], "--audio_file is missing"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(audio_file, tmp_path, capsys, options, message):
    places = {"good": audio_file, **{n: tmp_path / f"{n}.wav" for n in ("missing", "empty", "text")}}
    places["empty"].touch()
    places["text"].write_text("no audio " * 99)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        inference.main([o.format(**places) for o in options] + [f"--out={out}"])
    captured = capsys.readouterr()
    assert stop.value.code == 2 and message in captured.err and captured.err.count("\n") == 1
    assert not out.exists()


def test_a_foreign_file_is_kept(tone_model, audio_file, tmp_path, capsys):
    (tmp_path / "street corner.tsv").write_text("my own notes")
    options = [f"--audio_file={audio_file}", f"--out={tmp_path}", "--detection_thresholds", "0.5"]
    with pytest.raises(SystemExit) as stop:
        inference.main(options)
    assert stop.value.code == 2 and "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "street corner.tsv").read_text() == "my own notes"
    assert inference.main([*options, "--overwrite"]) == 0


def test_help_and_mistakes_do_not_wait_for_torch():
    code = "import sys, inference\ntry: inference.main(['--median_window', '2'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules and 'pandas' not in sys.modules and 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    shown = subprocess.run([sys.executable, "inference.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0
    for name in ("cuda", "model_name", "pretrained", "seq_model_type", "audio_file", "detection_thresholds"):
        assert f"--{name}" in shown.stdout


def test_a_real_checkpoint_from_the_shell(audio_file, tmp_path):
    """The published command line, with random weights from a file in the layout of the released ones."""
    import models

    model = models.create_model("fmn04", seq_model_type="tf", seq_model_dim=104)
    torch.save({f"net.{k}": v for k, v in model.state_dict().items()}, tmp_path / "weights.pt")
    options = ["--model_name=fmn04", "--seq_model_type=tf", "--seq_model_dim=104", f"--audio_file={audio_file}"]
    options += [f"--checkpoint={tmp_path / 'weights.pt'}", f"--out={tmp_path / 'out'}"]
    done = subprocess.run([sys.executable, "inference.py", *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    table = pd.read_csv(tmp_path / "out" / "street corner.above0.5.tsv", sep="\t")
    assert len(table) > 10 and table.offset.max() == 15
    labels = set(models.audioset_strong_labels())
    assert set(table.event_label) <= labels
