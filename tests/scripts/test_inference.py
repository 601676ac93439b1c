"""The command line of inference.py: what it prints and writes, and how it refuses bad input."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image

import inference
from helpers.event_files import CSV_COLUMNS
from tests.lock_holder import written_by_another
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
    monkeypatch.setattr("helpers.backends.load_torch_model", lambda *_, **__: ToneModel())


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


@pytest.mark.parametrize("option", ["out", "clips"])
def test_two_runs_into_one_folder_are_refused(tone_model, audio_file, tmp_path, capsys, option):
    folders = {"out": tmp_path / "out", "clips": tmp_path / "clips"}
    command = [f"--audio_file={audio_file}", *(f"--{name}={path}" for name, path in folders.items())]
    with written_by_another(folders[option], folder=True) as line, pytest.raises(SystemExit) as stop:
        inference.main(command)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith(line)
    assert inference.main(command) == 0
    assert not list(tmp_path.rglob(".*.lock"))


def test_published_thresholds_give_three_lists(tone_model, audio_file, tmp_path, capsys):
    inference.main([f"--audio_file={audio_file}", f"--out={tmp_path / 'out'}"])
    names = sorted(p.name for p in (tmp_path / "out").glob("*.tsv"))
    assert names == [f"street corner.above{t}.tsv" for t in ("0.1", "0.2", "0.5")]
    assert capsys.readouterr().out.count("events above") == 3


def test_a_class_has_its_own_threshold(tone_model, audio_file, tmp_path, capsys):
    table = tmp_path / "thresholds.csv"
    table.write_text("label,threshold\nSiren,1\n")
    command = [f"--audio_file={audio_file}", f"--out={tmp_path / 'out'}"]
    for options in (["--detection_thresholds", "0.5", "Siren=1"], [f"--thresholds={table}"]):
        assert inference.main([*command, *options]) == 0
        assert "1 events above the thresholds of their classes" in capsys.readouterr().out
        found = pd.read_csv(tmp_path / "out" / "street corner.tsv", sep="\t")
        assert found.event_label.tolist() == ["Sine wave"]
    folder = [*command, f"--thresholds={table}", "--skip_existing"]
    for text, n_skipped in (("label,threshold\nSiren,1\n", 0), ("", 1), ("label,threshold\nSiren,0.5\n", 0)):
        table.write_text(text or table.read_text())
        assert inference.main(folder) == 0
        assert (", 1 skipped" in capsys.readouterr().out) == bool(n_skipped)  # the table is one of the settings
    with pytest.raises(SystemExit) as stop:
        inference.main([*command, "--detection_thresholds", "0.5", "Sirene=0.2"])
    assert stop.value.code == 2
    assert "'Sirene': the model has no such class; did you mean Siren" in capsys.readouterr().err


def test_the_picture_with_true_events(tone_model, audio_file, tmp_path):
    (tmp_path / "true.tsv").write_text(
        "filename\tonset\toffset\tevent_label\nstreet corner.wav\t1\t2\t/m/01v_m0\n", encoding="utf-8"
    )
    orange = {}
    for name, true_events in {"without": [], "with": [f"--true_events={tmp_path / 'true.tsv'}"]}.items():
        inference.main([f"--audio_file={audio_file}", f"--out={tmp_path / name}", "--plot", *true_events])
        pixels = np.asarray(Image.open(tmp_path / name / "street corner.png").convert("RGB")).astype(int)
        assert pixels.shape[1] == 1800
        assert (np.abs(pixels - (0x08, 0x51, 0x9C)).sum(axis=2) < 30).sum() > 1000  # detected at the highest threshold
        columns = np.flatnonzero((np.abs(pixels - (0xE6, 0x9F, 0x00)).sum(axis=2) < 30).sum(axis=0) > 3)
        orange[name] = len(columns[columns < 1400])  # without the legend
    # one of 15 s true, on an axis of about 1,400 pixels
    assert orange["without"] == 0 and 60 < orange["with"] < 120


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--audio_file={missing}"], "missing.wav: expected a file or folder, got a path that does not exist"),
        (["--audio_file={empty}"], "empty.wav' cannot be read as audio: it is empty"),
        (["--audio_file={text}"], "text.wav' cannot be read as audio"),
        (["--audio_file={good}", "--detection_thresholds", "0.5", "1.2"], "--detection_thresholds is 1.2"),
        (["--audio_file={good}", "--detection_thresholds", "much"], "--detection_thresholds is much"),
        (["--audio_file={good}", "--median_window=4"], "--median_window is 4"),
        (["--audio_file={good}", "--model_name=fmn11"], "did you mean fmn1"),
        (["--audio_file={good}", "--pretrained=scratch", "--seq_model_type=transformer"], "--seq_model_type is"),
        (["--audio_file={good}", "--checkpoint={missing}"], "missing.wav"),
        (["--audio_file={good}", "--checkpoint={text}"], "text.wav' cannot be read as weights"),
        (["--audio_file={good}", "--true_events={missing}", "--plot"], "true events"),
        (["--audio_file={good}", "--true_events={good}"], "nothing draws them; add --plot or --report"),
        (["--audio_file={good}", "--stream_hop=2"], "--stream_hop is for streams"),
        (["--audio_file={good}", "--raw=16000"], "--raw is 16000: only standard input"),
        (["--audio_file={good}", "--report", "--skip_existing"], "--skip_existing hears only the rest"),
        (["--audio_file={good}", "--checkpoint=x.onnx", "--seq_model_type=gru"], "--seq_model_type is gru"),
        (["--audio_file=-", "--channels=each"], "which a pipe cannot"),
        (["--audio_list={list}", "--clips=clips"], "which a pipe cannot"),
        (["--stream={good}", "--tags"], "without --out, --tags"),
        (["--audio_file={good}", "--out={empty}"], "--out is "),
        (["--audio_file={good}", "--clips={empty}"], "a file stands where a folder is meant"),
        (["--audio_file={good}", "--cuda", "--device=cpu"], "contradicts --cuda"),
        (["--audio_file={good}", "--tresholds", "0.5"], "unknown option '--tresholds'"),
        (
            ["--audio_file={good}", "--detection_thresholds=0.5", "Siren=0.3"],
            "'Siren=0.3' belongs to no option: give several values after a blank, --detection_thresholds 0.5 Siren=0.3",
        ),
        (
            ["--audio_file={good}", "--detection_thresholds=0.5", "Hiss=0.3"],
            "'Hiss=0.3' belongs to no option: give several",
        ),
        (["--audio_file={good}", "--stream_hop", "2", "3"], "'3' belongs to no option (--stream_hop takes one value)"),
        (["--audio_file={good}", "--report", "audio_flie=x"], "unknown option 'audio_flie'; did you mean --audio_file"),
        ([], "--audio_file is missing"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(audio_file, tmp_path, capsys, options, message):
    places = {"good": audio_file, **{n: tmp_path / f"{n}.wav" for n in ("missing", "empty", "text")}}
    places["empty"].touch()
    places["text"].write_text("no audio " * 99)
    places["list"] = tmp_path / "list.txt"
    places["list"].write_text("-\n")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        inference.main([f"--out={out}"] + [o.format(**places) for o in options])
    captured = capsys.readouterr()
    assert stop.value.code == 2 and message in captured.err and captured.err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("option", ["out", "clips"])
def test_a_ledger_of_garbage_is_one_line_also_for_a_folder(tone_model, tmp_path, capsys, option):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        soundfile.write(tmp_path / "in" / f"{name}.wav", tones(3, [(1, 2, "Siren")]), 16_000)
    (tmp_path / option).mkdir()
    (tmp_path / option / ".efficientsed.jsonl").write_bytes(b"\xff\xfe\0garbage")
    command = [f"--audio_file={tmp_path / 'in'}", f"--out={tmp_path / 'out'}", f"--clips={tmp_path / 'clips'}"]
    with pytest.raises(SystemExit) as stop:
        inference.main(command)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and "cannot read the ledger" in error
    assert not list((tmp_path / "out").glob("*.tsv"))


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


# ---- many files -----------------------------------------------------------------------------------------------


def make_folder(folder: Path, n: int) -> dict[str, set[str]]:
    """n files of which 1 in 20 is odd: five kinds of bad ones, half ones, good ones of unusual rate and channels."""
    kinds: dict[str, set[str]] = {"bad": set(), "half": set(), "odd": set()}
    good = tones(1.0, [(0.2, 0.6, "Siren")])
    for i in range(n):
        path = folder / f"{i % 7}" / f"file {i:03d}.{('wav', 'flac')[i % 2]}"
        path.parent.mkdir(exist_ok=True, parents=True)
        soundfile.write(path, good, 16_000)
        if i % 20:
            continue
        kind = i // 20 % 8
        kinds["odd" if kind > 5 else "half" if kind == 2 else "bad"].add(str(path))
        content = path.read_bytes()
        if kind < 4:
            path.write_bytes((b"", b"this is not audio" * 50, content[: 2 * len(content) // 3], content[:30])[kind])
        elif kind == 4:
            soundfile.write(path, np.zeros(0), 16_000)
        elif kind == 5:
            path.write_bytes(bytes(1000))
        else:
            rate, channels = ((96_000, 1), (22_050, 8))[kind - 6]
            audio = np.repeat(tones(1.0, [(0.2, 0.6, "Siren")], rate)[:, None], channels, 1)
            soundfile.write(path, audio, rate)
    return kinds


def run_folder(folder: Path, out: Path, *options: str) -> int:
    return inference.main(["--audio_file", str(folder), f"--out={out}", "--detection_thresholds", "0.5", *options])


def test_500_files_of_which_25_are_odd(tone_model, tmp_path, capsys):
    kinds = make_folder(tmp_path / "in", 500)
    assert run_folder(tmp_path / "in", tmp_path / "out") == 3
    captured = capsys.readouterr()
    bad = kinds["bad"]
    assert sum(map(len, kinds.values())) == 25 and len(bad) == 16
    assert f"{len(bad)} files could not be read" in captured.err and "484 files" in captured.out
    assert "3 files are odd, and were processed" in captured.err and "cut off: it announces 1.00 s" in captured.err
    table = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert len(table) == 500 and table.file.is_unique
    assert set(table.file[table.status == "failed"]) == bad and table.error.notna().sum() == len(bad) + 3
    assert set(table.file[table.status == "cut off"]) == kinds["half"]
    assert table["events_above_0.5"].dropna().eq(1).all()
    joined, counts = (pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("events", "counts"))
    names = [Path(f).relative_to(tmp_path / "in").as_posix() for f in table.file[table.status != "failed"]]
    assert joined.filename.tolist() == counts.filename.tolist() == names  # one event each, in the order of the run
    assert counts.columns.tolist() == ["filename", "channel", "events", "Siren"] and counts.Siren.eq(1).all()
    written = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.tsv")}
    expected = {Path(f).relative_to(tmp_path / "in").with_suffix(".tsv").as_posix() for f in set(table.file) - bad}
    assert written == expected
    for name in ("1/file 120.tsv", "0/file 140.tsv"):  # 96 kHz and 8 channels
        events = pd.read_csv(tmp_path / "out" / name, sep="\t")
        np.testing.assert_allclose(events[["onset", "offset"]], [[0.2, 0.6]], atol=0.041)


def test_an_interrupted_run_goes_on(tone_model, tmp_path, capsys, monkeypatch):
    make_folder(tmp_path / "in", 19)
    (tmp_path / "in" / "0" / "file 000.wav").unlink()
    out = tmp_path / "out"
    write, n_written = inference.ResultWriter.write, []

    def stop_after_five(self, job, detection):
        if len(n_written) == 5:
            raise KeyboardInterrupt
        n_written.append(job.key)
        return write(self, job, detection)

    monkeypatch.setattr(inference.ResultWriter, "write", stop_after_five)
    with pytest.raises(SystemExit) as stop:
        run_folder(tmp_path / "in", out, "--format", "tsv", "scores_hdf5")
    assert stop.value.code == 130
    assert len(pd.read_csv(out / "summary.csv")) == len(pd.read_csv(out / "events.csv")) == 5
    assert len(list(out.rglob("*.tsv"))) == len(list(out.rglob("*.h5"))) == 5  # and no half ones
    monkeypatch.setattr(inference.ResultWriter, "write", write)
    assert run_folder(tmp_path / "in", out, "--format", "tsv", "scores_hdf5", "--skip_existing") == 0
    assert "13 files, 5 skipped" in capsys.readouterr().out
    table = pd.read_csv(out / "summary.csv")
    assert len(table) == 18 and (table.status == "done").all() and table["events_above_0.5"].eq(1).all()
    joined = (out / "events.csv").read_bytes()
    assert run_folder(tmp_path / "in", tmp_path / "whole") == 0
    assert joined == (tmp_path / "whole" / "events.csv").read_bytes() and joined.count(b"\r\n") == 19
    capsys.readouterr()
    assert run_folder(tmp_path / "in", out, "--format", "tsv", "scores_hdf5", "--skip_existing") == 0
    assert "0 files, 18 skipped" in capsys.readouterr().out
    assert joined == (out / "events.csv").read_bytes()


def test_the_same_command_writes_the_same_bytes(tone_model, tmp_path):
    make_folder(tmp_path / "in", 19)
    formats = ["--format", "csv", "json", "scores_tsv", "--report"]

    def written(out: Path) -> dict[str, bytes]:
        files = (p for p in out.rglob("*") if p.is_file() and not p.name.startswith("."))
        return {p.relative_to(out).as_posix(): p.read_bytes() for p in files}

    for name in ("one", "two"):
        run_folder(tmp_path / "in", tmp_path / name, *formats)
    first = written(tmp_path / "one")
    assert len(first) > 3 * 18 and first == written(tmp_path / "two")
    run_folder(tmp_path / "in", tmp_path / "other", *formats, "--median_window=3")
    assert first != written(tmp_path / "other")


def test_what_was_done_under_other_settings_is_done_again(tone_model, tmp_path, capsys):
    make_folder(tmp_path / "in", 4)
    (tmp_path / "in" / "0" / "file 000.wav").unlink()
    again = [tmp_path / "in", tmp_path / "out", "--skip_existing"]
    assert run_folder(*again) == 0 and run_folder(*again) == 0
    assert "0 files, 3 skipped" in capsys.readouterr().out
    with_clips = [*again, f"--clips={tmp_path / 'clips'}"]
    for setting in ([*again, "--median_window=1"], [*again, "--format", "csv"], with_clips):
        assert run_folder(*setting) == 0
        assert "3 files, 0:00:03 of audio" in capsys.readouterr().out
    (next((tmp_path / "clips").rglob("*.wav"))).unlink()
    assert run_folder(*with_clips) == 0
    assert "1 files, 2 skipped" in capsys.readouterr().out
    assert len(list((tmp_path / "clips").rglob("*.wav"))) == 3


def test_the_rows_of_channels_stay_apart_in_a_run_that_goes_on(tone_model, tmp_path):
    audio = np.stack([tones(3, [(1, 2, "Siren")]), tones(3, [])], axis=1)
    soundfile.write(tmp_path / "two.wav", audio, 16_000)
    for _ in range(2):
        assert run_folder(tmp_path / "two.wav", tmp_path / "out", "--channels=each", "--skip_existing") == 0
        table = pd.read_csv(tmp_path / "out" / "summary.csv")
        assert table["events_above_0.5"].tolist() == [1, 0] and table["results"].is_unique
        assert all((tmp_path / "out" / f"{stem}.tsv").exists() for stem in table["results"])


def test_each_bad_file_is_named_once(tone_model, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    soundfile.write(folder / "half.wav", tones(1.0, [(0.2, 0.6, "Siren")]), 16_000)
    (folder / "half.wav").write_bytes((folder / "half.wav").read_bytes()[:20_000])
    (folder / "empty.wav").touch()
    soundfile.write(folder / "good.wav", tones(1.0, [(0.2, 0.6, "Siren")]), 16_000)
    for options, n_bad in ((["--strict"], 2), ([], 1)):
        assert run_folder(folder, tmp_path / f"out{n_bad}", *options) == 3
        error = capsys.readouterr().err
        assert f"{n_bad} files could not be read" in error
        assert [error.count(f"{name}.wav") for name in ("half", "empty", "good")] == [1, 1, 0]
        assert (f"'{folder / 'half.wav'}': it is cut off" in error) == (n_bad == 2)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_and_places_that_cannot_be_written_are_bad_files_like_others(tone_model, tmp_path, capsys):
    folder, good = tmp_path / "in", tones(1.0, [(0.2, 0.6, "Siren")])
    for name in ("a", "summary", "events", "counts", "x" * 248, "no unicode", "taken/b"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{name}.wav", good, 16_000)
    (folder / "no unicode.wav").rename(os.fsdecode(bytes(folder) + b"/b\xffd.wav"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "taken").touch()
    assert run_folder(folder, tmp_path / "out", "--format", "csv", "scores_hdf5") == 3
    error = capsys.readouterr().err
    assert "1 files could not be read" in error
    assert "its results cannot be written: " in error and "taken" in error
    written = {path.name for path in (tmp_path / "out").glob("*.csv")}
    strange = "b\ufffdd.csv"  # a name that is not UTF-8 is a name like others
    tables = {"summary", "events", "counts"}
    assert written == {
        "a.csv",
        "x" * 200 + ".csv",
        strange,
        *(f"{t}{kind}.csv" for t in tables for kind in ("", ".wav")),
    }
    table = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert sorted(table.status) == ["done"] * 6 + ["failed"]
    assert not [path for path in (tmp_path / "out").iterdir() if ".part" in path.name]


def test_scores_that_are_no_numbers_are_no_silence(monkeypatch, tmp_path, capsys):
    class Overflows(ToneModel):
        def forward(self, mel):
            strong, weak = super().forward(mel)
            return torch.where(strong > 30, torch.nan, strong), weak

    monkeypatch.setattr("helpers.backends.load_torch_model", lambda *_, **__: Overflows())
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "good.wav", tones(25, EVENTS), 16_000)
    soundfile.write(tmp_path / "in" / "loud.wav", 7 * tones(25, EVENTS), 16_000, "FLOAT")
    assert run_folder(tmp_path / "in", tmp_path / "out") == 3
    assert "loud.wav': the network gives scores that are not numbers" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").glob("*.tsv")} == {"good.tsv"}
    with pytest.raises(SystemExit) as stop:
        inference.main(["--stream", str(tmp_path / "in" / "loud.wav")])
    assert stop.value.code == 2 and "not numbers" in capsys.readouterr().err


def test_one_long_file_shows_how_far_it_is(tone_model, audio_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("helpers.progress._PAUSE", {True: 0.0, False: 0.0})
    assert inference.main([f"--audio_file={audio_file}", f"--out={tmp_path}"]) == 0
    assert "0/1 files, 0:00:05 of audio" in capsys.readouterr().err


def test_every_channel_by_itself(tone_model, tmp_path):
    audio = np.stack([tones(3, [(1, 2, "Siren")]), tones(3, [(0.4, 0.8, "Sine wave")])], axis=1)
    soundfile.write(tmp_path / "two.wav", audio, 16_000)
    options = [f"--audio_file={tmp_path / 'two.wav'}", f"--out={tmp_path}", "--detection_thresholds", "0.5"]
    assert inference.main([*options, "--channels=each", "--format", "csv"]) == 0
    labels = [pd.read_csv(tmp_path / f"two.ch{i}.csv") for i in (1, 2)]
    assert [t.label.tolist() for t in labels] == [["Siren"], ["Sine wave"]]
    assert [t.channel.tolist() for t in labels] == [[1], [2]]
    assert inference.main([*options, "--channels=first"]) == 0
    assert pd.read_csv(tmp_path / "two.tsv", sep="\t").event_label.tolist() == ["Siren"]


def test_clips_and_tags(tone_model, audio_file, tmp_path, capsys):
    options = [f"--audio_file={audio_file}", f"--out={tmp_path / 'out'}", f"--clips={tmp_path / 'clips'}", "--tags"]
    assert inference.main([*options, "--detection_thresholds", "0.5", "--format", "json"]) == 0
    clips = sorted((tmp_path / "clips").rglob("*.wav"))
    assert [c.name for c in clips] == ["00001.000-00002.000_Sine_wave.wav", "00008.800-00012.000_Siren.wav"]
    whole, rate = soundfile.read(audio_file)
    cut, rate_of_clip = soundfile.read(clips[1])
    assert rate == rate_of_clip == 44_100
    np.testing.assert_array_equal(cut, whole[round(8.8 * rate) : round(12.0 * rate)])
    tags = pd.read_csv(tmp_path / "out" / "street corner.tags.tsv", sep="\t")
    assert set(tags.label[tags.probability > 0.5]) == {"Sine wave", "Siren"}
    assert "tags: " in capsys.readouterr().out


@pytest.mark.parametrize("label", ["../../etc/passwd", "a/b\\c:d*e?", "\u202egnp.exe", "", "." * 300])
def test_labels_never_become_paths(label):
    from helpers.clips import safe_name

    assert re.fullmatch(r"[A-Za-z0-9_-]{1,60}", safe_name(label))


# ---- standard input and streams -------------------------------------------------------------------------------


class Pipe:
    def __init__(self, data: bytes):
        self.buffer = io.BytesIO(data)


def test_audio_from_standard_input(tone_model, audio_file, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Pipe(audio_file.read_bytes()))
    assert inference.main(["--audio_file=-", f"--out={tmp_path}", "--detection_thresholds", "0.5"]) == 0
    assert pd.read_csv(tmp_path / "stdin.tsv", sep="\t").event_label.tolist() == ["Sine wave", "Siren"]
    raw = (tones(15, EVENTS, 8000) * 32767).astype("<i2").tobytes()
    monkeypatch.setattr(sys, "stdin", Pipe(raw))
    assert (
        inference.main(["--audio_file=-", "--raw=8000:1:s16", f"--out={tmp_path}", "--detection_thresholds", "0.5"])
        == 0
    )
    assert pd.read_csv(tmp_path / "stdin.tsv", sep="\t").event_label.tolist() == ["Sine wave", "Siren"]


def test_audio_that_breaks_off_on_standard_input(tone_model, audio_file, tmp_path, monkeypatch, capsys):
    whole = audio_file.read_bytes()
    monkeypatch.setattr(sys, "stdin", Pipe(whole[: len(whole) // 3]))
    assert inference.main(["--audio_file=-", f"--out={tmp_path}"]) == 0
    assert "stdin: it is cut off: it holds 33% of the samples" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", Pipe(whole[: len(whole) // 3]))
    with pytest.raises(SystemExit) as stop:
        inference.main(["--audio_file=-", f"--out={tmp_path / 'strict'}", "--strict"])
    assert stop.value.code == 2 and "cut off" in capsys.readouterr().err and not (tmp_path / "strict").exists()
    monkeypatch.setattr(sys, "stdin", Pipe(whole[: len(whole) // 3]))
    assert inference.main(["--stream=-", "--detection_thresholds=0.5"]) == 0
    captured = capsys.readouterr()
    assert "cut off" in captured.err and captured.out.count("Sine wave") == 2


@pytest.mark.parametrize("source", ["-", "file"])
def test_a_stream_on_the_command_line(tone_model, audio_file, monkeypatch, capsys, source):
    monkeypatch.setattr(sys, "stdin", Pipe(audio_file.read_bytes()))
    word = "-" if source == "-" else str(audio_file)
    assert inference.main(["--stream", word, "--detection_thresholds", "0.5", "--format", "jsonl"]) == 0
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.out.splitlines()]
    assert [(e["kind"], e["label"]) for e in events] == [
        ("onset", "Sine wave"), ("offset", "Sine wave"), ("onset", "Siren"), ("offset", "Siren"),
    ]  # fmt: skip
    np.testing.assert_allclose([e["time"] for e in events], [1, 2, 8.8, 12], atol=0.041)
    assert "at most 2.16 s after the sound" in captured.err
    assert {e["filename"] for e in events} == {"stdin" if source == "-" else audio_file.name}
    assert list(events[0])[2:] == list(CSV_COLUMNS) and events[0]["threshold"] == 0.5 and "clock" not in events[0]
    monkeypatch.setattr(sys, "stdin", Pipe(audio_file.read_bytes()))
    assert inference.main(["--stream", word, "--detection_thresholds", "0.5"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:3] == ["1.000", "onset", "Sine"]


@pytest.mark.parametrize("options", [[], ["--format=jsonl"]])
def test_the_time_of_day_of_a_live_stream(tone_model, audio_file, monkeypatch, capsys, options):
    monkeypatch.setattr(sys, "stdin", Pipe(audio_file.read_bytes()))
    before = datetime.now(timezone.utc)
    assert inference.main(["--stream=-", "--detection_thresholds=0.5", "--stream_clock", *options]) == 0
    line = capsys.readouterr().out.splitlines()[2]  # the siren begins
    word = json.loads(line)["clock"] if options else line.split()[0]
    late = (datetime.fromisoformat(word.replace("Z", "+00:00")) - before).total_seconds()
    assert 8.8 - 1.0 < late < 8.8 + 5.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--stream_clock"], "--stream_clock is True: a file says nothing of the time of day"),
        (["--raw=16000"], "--raw is 16000: only standard input"),
        (["--channels=each"], "--channels is each"),
        (["--format", "csv", "jsonl"], "--format is csv jsonl"),
        (["--overlap=4", "--top_k=3", "--skip_existing"], "without --overlap, --skip_existing, --top_k"),
    ],
)
def test_options_that_a_stream_has_no_use_for(audio_file, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        inference.main([f"--stream={audio_file}", *options])
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize("n_samples", [0, 1, 100, 639, 641])
def test_streams_of_less_than_a_frame(tone_model, tmp_path, monkeypatch, capsys, n_samples):
    soundfile.write(tmp_path / "short.wav", np.zeros(n_samples), 16_000)
    monkeypatch.setattr(sys, "stdin", Pipe((tmp_path / "short.wav").read_bytes()))
    if n_samples:
        assert inference.main(["--stream=-", "--detection_thresholds=0.5"]) == 0
        assert capsys.readouterr().out == ""
        return
    with pytest.raises(SystemExit) as stop:
        inference.main(["--stream=-"])
    assert stop.value.code == 2 and "'stdin' holds no samples" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="other systems have no such names")
@pytest.mark.parametrize("option", ["--audio_file", "--stream"])
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path, capsys, option):
    os.mkfifo(tmp_path / "live.wav")
    with pytest.raises(SystemExit) as stop:
        inference.main([f"{option}={tmp_path / 'live.wav'}"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "it is a pipe or device, not a file" in error and error.count("\n") == 1


def test_labels_and_names_that_a_terminal_would_obey(tmp_path, monkeypatch, capsys):
    model = ToneModel()
    model.labels = ("\x1b[31mSine\nwave", "=Beep", *model.labels[2:])
    monkeypatch.setattr("helpers.backends.load_torch_model", lambda *_, **__: model)
    audio = tmp_path / "a\x1b[2J.wav"
    soundfile.write(audio, tones(5, [(1, 2, "Sine wave"), (3, 4, "Beep, bleep")]), 16_000)
    command = [f"--out={tmp_path / 'out'}", "--detection_thresholds=0.5", "--format", "csv", "tsv"]
    for source in (audio, tmp_path):
        assert inference.main([f"--audio_file={source}", *command]) == 0
        said = capsys.readouterr()
        assert "\x1b" not in said.out + said.err and "\\x1b[31mSine" in said.out
    with open(tmp_path / "out" / "a\x1b[2J.csv", newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["\\x1b[31mSine\\nwave", "'=Beep"]
    assert all("\x1b" not in path.read_text() for path in (tmp_path / "out").glob("*.?sv"))


def test_a_reader_that_stops_early_is_no_error(audio_file, tmp_path):
    import models

    torch.save(models.create_model("fmn04").state_dict(), tmp_path / "weights.pt")
    command = f"{sys.executable} inference.py --model_name fmn04 --checkpoint '{tmp_path}/weights.pt'"
    command += f" --stream '{audio_file}' --detection_thresholds 0.5 | head -n 2"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("\n") == 2 and done.stderr.count("\n") == 1
