"""Clips of one base name in several folders, all the way: audio -> inference.py -> files -> helpers.psds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from sed_scores_eval import intersection_based

import inference
from helpers.psds_command import main as score
from tests.tone_model import TONES, ToneModel, tones

SECONDS = 10.0


@pytest.fixture(autouse=True)
def tone_model(monkeypatch):
    monkeypatch.setattr("helpers.backends.load_torch_model", lambda *_, **__: ToneModel())


def draw_events(seed: int) -> list[tuple[float, float, str]]:
    rng = np.random.default_rng(seed)
    chosen = rng.choice(list(TONES), 2, replace=False).tolist()
    onsets = [float(onset) for onset in np.round(rng.uniform(0.5, 6.5, 2), 2)]
    return [
        (onset, round(onset + float(rng.choice([1.0, 2.0])), 2), name)
        for onset, name in zip(onsets, chosen, strict=True)
    ]


@pytest.fixture
def nested(tmp_path) -> dict[str, list[tuple[float, float, str]]]:
    """Nine recordings `day<i>/rec.wav`, `day<i>/a/rec.wav`, `day<i>/rec.flac`; the same under names of their own."""
    events = {}
    for i in range(9):
        name = f"day{i // 3}/{('rec.wav', 'a/rec.wav', 'rec.flac')[i % 3]}"
        events[name] = draw_events(i)
        for path in (tmp_path / "nested" / name, tmp_path / "flat" / flat(name)):
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, tones(SECONDS, events[name]), 16_000)
    return events


def flat(name: str) -> str:
    return name.replace("/", "_").replace(".", f"_{Path(name).suffix[1:]}.")


def annotate(path: Path, events: dict[str, list[tuple[float, float, str]]]) -> None:
    """Annotations that differ from what is heard: every third recording has one event less, one lies elsewhere."""
    lines = ["filename\tonset\toffset\tevent_label"]
    for i, (name, found) in enumerate(events.items()):
        for onset, offset, label in found[: 1 if i % 3 == 2 else 2]:
            shift = 0.5 if i % 4 == 1 else 0.0
            lines.append(f"{name}\t{onset + shift}\t{offset + shift}\t{label}")
    path.write_text("\n".join(lines) + "\n")


def infer(audio: Path, out: Path, *options: str) -> int:
    return inference.main([f"--audio_file={audio}", f"--out={out}", "--detection_thresholds=0.5", *options])


def test_psds_of_equal_names_is_that_of_unique_names(nested, tmp_path, capsys):
    figures = {}
    for kind, events in (("nested", nested), ("flat", {flat(name): found for name, found in nested.items()})):
        truth, durations, out = (tmp_path / f"{kind}.{what}" for what in ("tsv", "csv", "out"))
        annotate(truth, events)
        durations.write_text("filename\tduration\n" + "".join(f"{name}\t{SECONDS}\n" for name in events))
        assert infer(tmp_path / kind, out, "--format", "scores_tsv") == 0
        command = [f"--scores={out / 'scores'}", f"--ground_truth={truth}", f"--durations={durations}"]
        score([*command, f"--out={tmp_path / kind}.psds", f"--save_hdf5={tmp_path / kind}.h5"])
        score([f"--scores={tmp_path / kind}.h5", *command[1:], f"--out={tmp_path / kind}.again"])
        for folder in ("psds", "again"):
            content = json.loads((tmp_path / f"{kind}.{folder}" / "results.json").read_text())
            (figures[kind, folder],) = content["models"].values()
    reference = intersection_based.psds(
        *(str(tmp_path / name) for name in ("flat.out/scores", "flat.tsv", "flat.csv")),
        dtc_threshold=0.7, gtc_threshold=0.7, alpha_st=1.0, max_efpr=100.0,
    )[0]  # fmt: skip
    assert 0.05 < reference < 0.95
    assert figures["nested", "psds"] == figures["flat", "psds"]
    assert figures["nested", "psds"]["n_clips"] == 9
    assert figures["nested", "psds"]["psds"] == pytest.approx(reference, abs=1e-9)
    assert figures["nested", "again"]["n_clips"] == 9
    # What the fault gave: with the ground truth of one recording for all of its name, PSDS is another.
    wrong = dict.fromkeys(nested, draw_events(0))
    annotate(tmp_path / "wrong.tsv", wrong)
    scores = [f"--scores={tmp_path / 'nested.out' / 'scores'}", f"--durations={tmp_path / 'nested.csv'}"]
    score([*scores, f"--ground_truth={tmp_path / 'wrong.tsv'}", f"--out={tmp_path / 'wrong'}"])
    (other,) = json.loads((tmp_path / "wrong" / "results.json").read_text())["models"].values()
    assert abs(other["psds"] - reference) > 0.05


def test_what_was_found_can_be_ground_truth(nested, tmp_path):
    """The TSV files of events and the scores of one run name the same clips."""
    assert infer(tmp_path / "nested", tmp_path / "out", "--format", "tsv", "scores_tsv") == 0
    tables = [pd.read_csv(path, sep="\t") for path in sorted((tmp_path / "out").glob("day*/**/*.tsv"))]
    table = pd.concat(tables)
    assert len(tables) == 9 and set(table.filename) == set(nested)
    for name, events in nested.items():
        assert sorted(table[table.filename == name].event_label) == sorted(label for *_, label in events)
    table.to_csv(tmp_path / "truth.tsv", sep="\t", index=False)
    durations = "".join(f"{name},{SECONDS}\n" for name in nested)
    (tmp_path / "durations.csv").write_text(durations)
    files = [f"--ground_truth={tmp_path / 'truth.tsv'}", f"--durations={tmp_path / 'durations.csv'}"]
    score([f"--scores={tmp_path / 'out' / 'scores'}", *files, f"--out={tmp_path / 'psds'}"])
    (figures,) = json.loads((tmp_path / "psds" / "results.json").read_text())["models"].values()
    assert figures["n_clips"] == 9 and figures["psds"] == pytest.approx(1.0)


def test_every_format_and_the_report_name_the_path(nested, tmp_path):
    out = tmp_path / "out"
    options = ["--format", "csv", "json", "jsonl", "raven", "rttm", "--report", "--tags"]
    assert infer(tmp_path / "nested", out, *options) == 0
    with (out / "summary.csv").open(newline="") as file:
        stems = [row["results"] for row in csv.DictReader(file)]
    assert len(set(stems)) == 9
    named: dict[str, list[str]] = {kind: [] for kind in ("csv", "json", "jsonl", "raven", "rttm")}
    for stem in stems:
        named["csv"] += pd.read_csv(out / f"{stem}.csv").filename.unique().tolist()
        named["json"].append(json.loads((out / f"{stem}.json").read_text())["filename"])
        named["jsonl"] += pd.read_json(out / f"{stem}.jsonl", lines=True).filename.unique().tolist()
        named["raven"] += pd.read_csv(out / f"{stem}.raven.txt", sep="\t")["Begin File"].unique().tolist()
        named["rttm"] += sorted({line.split()[1] for line in (out / f"{stem}.rttm").read_text().splitlines()})
    for kind in ("csv", "json", "jsonl", "raven"):
        assert sorted(named[kind]) == sorted(nested), kind
    assert sorted(named["rttm"]) == sorted(stems)
    assert all(f'"name":"{name}"' in (out / "report.html").read_text() for name in nested)


def test_true_events_belong_to_the_file_of_their_path(nested, tmp_path, capsys, monkeypatch):
    drawn = {}

    def stand_in(path, spectrogram, duration, tables, true, title):
        drawn[title] = sorted(zip(true.onset, true.offset, true.label, strict=True))
        path.write_bytes(b"picture")

    monkeypatch.setattr("helpers.plots.plot_events", stand_in)
    rows = [f"{name}\t{a}\t{b}\t{label}\n" for name, events in nested.items() for a, b, label in events]
    (tmp_path / "true.tsv").write_text("filename\tonset\toffset\tevent_label\n" + "".join(rows))
    options = ["--plot", f"--true_events={tmp_path / 'true.tsv'}"]
    assert infer(tmp_path / "nested", tmp_path / "out", *options) == 0
    assert drawn == {name: sorted(events) for name, events in nested.items()}
    drawn.clear()  # one file alone: its path decides
    assert infer(tmp_path / "nested/day1/a/rec.wav", tmp_path / "alone", *options) == 0
    assert drawn == {"rec.wav": sorted(nested["day1/a/rec.wav"])}
    (tmp_path / "true.tsv").write_text("filename\tonset\toffset\tevent_label\nrec.wav\t1\t2\tSiren\n")
    with pytest.raises(SystemExit) as stop:
        infer(tmp_path / "nested", tmp_path / "none", *options)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and not (tmp_path / "none").exists()
    assert "file 'rec.wav' may be 'day0/a/rec.wav' or 'day0/rec.wav' or 'day1/a/rec.wav', ...; give its path" in error


def test_no_file_that_looks_like_audio_is_skipped_silently(tmp_path, capsys):
    """What cannot be read is listed and gives exit code 3, whatever its ending; through links and loops, once."""
    audio = tmp_path / "audio"
    (tmp_path / "disk").mkdir()
    audio.mkdir()
    soundfile.write(audio / "good.wav", tones(2, [(0.5, 1, "Siren")]), 16_000)
    soundfile.write(tmp_path / "disk" / "good.wav", tones(2, [(0.5, 1, "Siren")]), 16_000)
    (audio / "disk").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(audio)
    bad = ["a.m4a", "b.WMA", "c.aac", "d.webm", "e.flac", "gone.mp3"]
    for name in bad[:-1]:
        (audio / name).write_bytes(b"no audio" * 200)
    (audio / "gone.mp3").symlink_to(tmp_path / "unmounted.mp3")
    (audio / "notes.txt").write_text("no audio either")
    assert infer(audio, tmp_path / "out") == 3
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        status = {str(Path(row["file"]).relative_to(audio)): row["status"] for row in csv.DictReader(file)}
    assert status == {**dict.fromkeys(bad, "failed"), "good.wav": "done", "disk/good.wav": "done"}
    error = capsys.readouterr().err
    assert "6 files could not be read" in error and all(name in error for name in bad)


def scores_of(folder: Path, *clips: str) -> None:
    for clip in clips:
        (folder / clip).parent.mkdir(parents=True, exist_ok=True)
        rows = "".join(f"{i / 25}\t{(i + 1) / 25}\t{float(25 <= i < 50)}\n" for i in range(250))
        (folder / f"{clip}.tsv").write_text("onset\toffset\t Dog \n" + rows)


@pytest.mark.parametrize(
    ("scores", "truth", "durations", "message"),
    [
        (
            "a/x b/x",
            "x.wav",
            "a/x b/x",
            "truth.tsv: file 'x.wav' may be 'a/x' or 'b/x'; give its path below the folder",
        ),
        ("a/x b/x", "a/x.wav b/x.wav", "x.wav", "durations.tsv: file 'x.wav' may be 'a/x' or 'b/x'"),
        ("x", "a/x.wav b/x.wav", "x", "truth.tsv: clip 'x' may be 'a/x.wav' or 'b/x.wav'"),
        (
            "a/x",
            "a/x.wav b/x.wav c/x.wav",
            "x",
            "no scores of 2 clips of the ground truth, such as b/x.wav, c/x.wav; add",
        ),
        ("a/x b/x", "a/x.wav b/x.wav", "a/x.wav", "durations.tsv: no duration of clip b/x.wav"),
        (
            "y",
            "a/x.wav b/x.wav",
            "y",
            "no clip of the ground truth has scores: they are of y, and it names a/x.wav, b/x",
        ),
    ],
)
def test_names_that_do_not_say_which_clip_are_refused(tmp_path, capsys, scores, truth, durations, message):
    files = write_score_files(tmp_path, scores.split(), truth.split(), durations.split())
    with pytest.raises(SystemExit) as stop:
        score(files)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


def write_score_files(folder: Path, scores: list[str], truth: list[str], durations: list[str]) -> list[str]:
    scores_of(folder / "scores", *scores)
    (folder / "truth.tsv").write_text(
        "filename\tonset\toffset\tevent_label\n" + "".join(f"{name}\t1\t2\tDog \n" for name in truth)
    )
    (folder / "durations.tsv").write_text("filename\tduration\n" + "".join(f"{name}\t10\n" for name in durations))
    tables = [f"--ground_truth={folder / 'truth.tsv'}", f"--durations={folder / 'durations.tsv'}"]
    return [f"--scores={folder / 'scores'}", *tables]


def test_bare_names_still_work_where_one_clip_has_them(tmp_path, capsys):
    files = write_score_files(tmp_path, ["a/x", "b/y"], ["x.wav", "eval/b/y.flac"], ["x", "y.wav"])
    score(files)
    assert "2 clips" in capsys.readouterr().out


def test_clips_without_scores_are_named_and_counted(tmp_path, capsys):
    files = write_score_files(tmp_path, ["a/x", "b/z"], ["a/x.wav", "b/x.wav", "c/x.wav"], ["a/x"])
    score([*files, "--partial"])
    printed = capsys.readouterr()
    assert "2 clips of the ground truth have no scores" in printed.err and "b/x.wav, c/x.wav" in printed.err
    assert "1 clips without ground truth left out: b/z" in printed.err and ": 1 clips" in printed.out
