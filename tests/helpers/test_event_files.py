"""Every output format, read back by something that did not write it."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from errors import UserError
from helpers.classes import ClassName
from helpers.detection import Detection
from helpers.event_files import FORMATS, Contents, file_names, write_events
from helpers.events import decode_events
from helpers.outputs import OutputFolder
from helpers.score_files import ScoreHDF5, ScoreTSV

CLASSES = [
    ClassName("Speech", "/m/09x0r"),
    ClassName('<b>Tab\there</b>, "quoted" & --> more', ""),
    ClassName("Türglocke, ding-dong", "/m/03wwcy"),
]
# (onset, offset, class) of the events above 0.5; above 0.2 there is one more
EXPECTED = [(0.08, 0.28, 0), (0.48, 0.68, 1), (0.88, 1.08, 2), (1.0, 1.1999, 0)]
MORE = (0.2, 0.6, 2)


@pytest.fixture(scope="module")
def detection() -> Detection:
    scores = np.full((3, 30), 0.01, np.float32)
    for i, (onset, offset, c) in enumerate(EXPECTED):
        scores[c, round(onset * 25) : round(offset * 25)] = 0.6 + i / 10
    scores[2, 5:15] = 0.3
    tables = {f"{t:g}": decode_events(scores, CLASSES, t, duration=1.1999) for t in (0.2, 0.5)}
    return Detection("in/some clip.flac", 1.1999, CLASSES, tables, np.array([0.9, 0.1, 0.4]))


@pytest.fixture
def write(tmp_path, detection):
    def run(name: str):
        contents = Contents("some clip.flac", detection, [(CLASSES[0], 0.9), (CLASSES[2], 0.4)])
        return write_events(OutputFolder(tmp_path), name, "some clip", contents)

    return run


def labels(replace=lambda text: " ".join(text.split())):
    return [replace(CLASSES[c].label) for _, _, c in EXPECTED]


def times(tolerance_digits=3):
    return [[on, np.floor(off * 1000) / 1000] for on, off, _ in EXPECTED]


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.per_threshold])
def test_one_file_for_each_threshold_where_a_format_cannot_tell_them_apart(write, name, tmp_path):
    low, high = write(name)
    assert low.name == FORMATS[name].file_name.format("some clip.above0.2")
    assert high.name.startswith("some clip.above0.5")
    assert file_names(name, "x", ["0.5"]) == [FORMATS[name].file_name.format("x")]
    assert len(low.read_text().splitlines()) > len(high.read_text().splitlines())


def test_tsv_by_dcase_util(write):
    import dcase_util

    read = dcase_util.containers.MetaDataContainer().load(
        str(write("tsv")[1]), file_format="CSV", csv_header=True, delimiter="\t"
    )
    assert [e.filename for e in read] == ["some clip.flac"] * 4
    np.testing.assert_allclose([[e.onset, e.offset] for e in read], times())
    assert [e.event_label for e in read] == labels()


def test_tsv_by_sed_scores_eval(write):
    from sed_scores_eval import io

    read = io.read_ground_truth_events(str(write("tsv")[1]))
    assert list(read) == ["some clip"]
    np.testing.assert_allclose([e[:2] for e in read["some clip"]], times())


@pytest.mark.parametrize("name", ["csv", "jsonl", "parquet"])
def test_tables_by_pandas(write, name):
    if name == "parquet":
        pytest.importorskip("pyarrow")
    read = {"csv": pd.read_csv, "jsonl": lambda p: pd.read_json(p, lines=True), "parquet": pd.read_parquet}
    (path,) = write(name)
    table = read[name](path)
    assert list(table.columns[:6]) == ["filename", "channel", "onset", "offset", "label", "mid"]
    table.threshold_name = table.threshold_name.astype(str)
    assert set(table.threshold_name) == {"0.2", "0.5"} and len(table) == 9
    high = table[table.threshold_name == "0.5"]
    np.testing.assert_allclose(high[["onset", "offset"]], times())
    assert high.label.tolist() == [CLASSES[c].label for _, _, c in EXPECTED]
    assert high.mid.fillna("").tolist() == [CLASSES[c].mid for _, _, c in EXPECTED]
    np.testing.assert_allclose(high.mean_score, [0.6, 0.7, 0.8, 0.9], atol=1e-4)
    assert (table.channel == "mix").all() and (table.filename == "some clip.flac").all()


def test_csv_by_the_csv_module(write):
    with write("csv")[0].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert [r["label"] for r in rows if r["threshold_name"] == "0.5"] == [CLASSES[c].label for _, _, c in EXPECTED]


def test_json(write):
    content = json.loads(write("json")[0].read_text())
    assert content["filename"] == "some clip.flac" and content["duration"] == 1.1999
    assert content["tags"][0] == {"label": "Speech", "mid": "/m/09x0r", "probability": 0.9}
    assert list(content["events"]) == ["0.2", "0.5"]
    assert [[e["onset"], e["offset"]] for e in content["events"]["0.5"]] == times()


def test_audacity_labels_by_dcase_util(write):
    import dcase_util

    path = write("audacity")[1]
    read = dcase_util.containers.MetaDataContainer().load(
        str(path), file_format="CSV", csv_header=False, fields=["onset", "offset", "event_label"], delimiter="\t"
    )
    np.testing.assert_allclose([[e.onset, e.offset] for e in read], [e[:2] for e in EXPECTED], atol=1e-6)
    assert [e.event_label for e in read] == labels()
    assert all(len(line.split("\t")) == 3 for line in path.read_text().splitlines())


def test_raven_selections_by_pandas(write):
    table = pd.read_csv(write("raven")[1], sep="\t", quoting=3)
    assert table.columns[:7].tolist() == [
        "Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)",
    ]  # fmt: skip
    np.testing.assert_allclose(table[["Begin Time (s)", "End Time (s)"]], [e[:2] for e in EXPECTED], atol=1e-6)
    assert table.Selection.tolist() == [1, 2, 3, 4] and (table["High Freq (Hz)"] > table["Low Freq (Hz)"]).all()
    assert table.Annotation.tolist() == labels()


def test_rttm_has_ten_fields(write):
    """NIST RT-09 evaluation plan, appendix A: ten fields between blanks, <NA> for what does not apply."""
    rows = [line.split() for line in write("rttm")[1].read_text().splitlines()]
    assert all(len(row) == 10 for row in rows)
    assert {(r[0], r[1], r[2], r[5], r[6], r[9]) for r in rows} == {
        ("SPEAKER", "some_clip", "1", "<NA>", "<NA>", "<NA>")
    }
    got = [[float(r[3]), float(r[3]) + float(r[4])] for r in rows]
    np.testing.assert_allclose(got, times(), atol=1e-9)
    assert [r[7] for r in rows] == labels(lambda text: "_".join(text.split()))
    pandas = pd.read_csv(write("rttm")[1], sep=" ", header=None)
    assert pandas.shape == (4, 10)


def test_webvtt_by_the_grammar_of_the_w3c(write):
    """W3C WebVTT, section 4.1: signature, blank line, cues of timings and text without `-->`."""
    text = write("vtt")[1].read_text()
    assert text.startswith("WEBVTT\n\n")
    stamp = r"(\d{2,}):([0-5]\d):([0-5]\d)\.(\d{3})"
    cues = [cue.split("\n") for cue in text[len("WEBVTT\n\n") :].rstrip("\n").split("\n\n")]
    assert len(cues) == 4 and all(len(cue) == 2 for cue in cues)
    for (timing, words), (onset, offset) in zip(cues, times(), strict=True):
        match = re.fullmatch(f"{stamp} --> {stamp}", timing)
        assert match
        h, m, s, ms, h2, m2, s2, ms2 = map(int, match.groups())
        assert h * 3600 + m * 60 + s + ms / 1000 == pytest.approx(onset)
        assert h2 * 3600 + m2 * 60 + s2 + ms2 / 1000 == pytest.approx(offset)
        assert "-->" not in words and "<" not in words
    assert "&lt;b&gt;Tab here&lt;/b&gt;" in cues[1][1]


def test_label_studio_by_its_documented_structure(write, detection, tmp_path):
    """https://labelstud.io/guide/predictions: what each task, prediction and region must hold."""
    (task,) = json.loads(write("label_studio")[0].read_text())
    assert task["data"] == {"audio": "/data/local-files/?d=some%20clip.flac"}
    assert [p["model_version"] for p in task["predictions"]] == [f"EfficientSED, threshold {t}" for t in (0.2, 0.5)]
    assert [len(p["result"]) for p in task["predictions"]] == [5, 4]
    prediction = task["predictions"][1]
    assert prediction["score"] == pytest.approx(0.75)
    regions = [r["value"] for r in prediction["result"]]
    assert [[r["start"], r["end"]] for r in regions] == times()
    assert [r["labels"] for r in regions] == [[CLASSES[c].label] for _, _, c in EXPECTED]
    for region in prediction["result"]:
        assert (region["from_name"], region["to_name"], region["type"]) == ("label", "audio", "labels")
        assert region["value"]["channel"] == 0 and region["original_length"] == 1.1999
    ids = [r["id"] for p in task["predictions"] for r in p["result"]]
    assert len(set(ids)) == 9 and all(re.fullmatch(r"[\w-]+", name) for name in ids)
    nothing = Detection("x.wav", 1.0, CLASSES, {"0.5": detection.tables["0.5"].select([])}, np.zeros(0))
    (path,) = write_events(OutputFolder(tmp_path), "label_studio", "x", Contents("x.wav", nothing, []))
    assert json.loads(path.read_text())[0]["predictions"][0]["result"] == []


def test_srt_by_the_package_srt(write):
    srt = pytest.importorskip("srt")
    cues = list(srt.parse(write("srt")[1].read_text()))
    assert [cue.index for cue in cues] == [1, 2, 3, 4]
    got = [[cue.start.total_seconds(), cue.end.total_seconds()] for cue in cues]
    np.testing.assert_allclose(got, times(), atol=1e-9)
    assert [cue.content for cue in cues] == [
        f"{label.replace('-->', '->')} ({score:.2f})"
        for label, score in zip(labels(), (0.6, 0.7, 0.8, 0.9), strict=True)
    ]


@pytest.mark.parametrize("package", ["webvtt", "crowsetta", "pyannote.database.util"])
def test_readers_of_other_projects(write, package):
    """The packages that people open these files with, where they are installed."""
    module = pytest.importorskip(package)
    if package == "webvtt":
        cues = module.read(str(write("vtt")[1]))
        assert len(cues) == 4 and cues[1].raw_text.startswith("&lt;b&gt;")
        assert cues[0].start_in_seconds == pytest.approx(0, abs=1)
    elif package == "crowsetta":
        boxes = module.formats.bbox.raven.Raven.from_file(write("raven")[1], annot_col="Annotation").to_bbox()
        np.testing.assert_allclose([[b.onset, b.offset] for b in boxes], [e[:2] for e in EXPECTED], atol=1e-6)
        sequence = module.formats.seq.audseq.AudSeq.from_file(write("audacity")[1]).to_seq()
        np.testing.assert_allclose(sequence.onsets_s, [e[0] for e in EXPECTED], atol=1e-3)
        np.testing.assert_allclose(sequence.offsets_s, [e[1] for e in EXPECTED], atol=1e-3)
        assert [b.label for b in boxes] == list(sequence.labels) == labels()
    else:
        tracks = list(module.load_rttm(write("rttm")[1])["some_clip"].itertracks(yield_label=True))
        np.testing.assert_allclose([[segment.start, segment.end] for segment, _, _ in tracks], times(), atol=1e-9)
        assert [label for _, _, label in tracks] == labels(lambda text: "_".join(text.split()))


def test_every_format_is_documented():
    docs = (Path(__file__).parents[2] / "docs" / "detection.md").read_text()
    for name, form in FORMATS.items():
        assert f"`{name}`" in docs
        assert f"`{form.file_name.format('NAME')}`" in docs


def test_a_missing_package_is_named_with_its_command(write, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        write("parquet")


def score_blocks():
    scores = np.random.default_rng(0).random((3, 61)).astype(np.float32)
    return scores, [scores[:, :7], scores[:, 7:50], scores[:, 50:]]


def test_scores_by_sed_scores_eval(tmp_path):
    from sed_scores_eval import io
    from sed_scores_eval.base_modules.scores import validate_score_dataframe

    scores, blocks = score_blocks()
    (tmp_path / "scores").mkdir()
    file = ScoreTSV(tmp_path / "scores" / "clip.tsv", CLASSES)
    for block in blocks:
        file.add(block)
    file.close(2.4123)
    read = io.read_sed_scores(tmp_path / "scores")["clip"]
    timestamps, names = validate_score_dataframe(read)
    np.testing.assert_allclose(timestamps, [*np.arange(61) / 25, 2.4123])
    assert list(names) == [" ".join(c.label.split()) for c in CLASSES]
    np.testing.assert_allclose(read.to_numpy()[:, 2:], scores.T, rtol=1e-5)


def test_times_of_hours_keep_their_milliseconds(tmp_path):
    from sed_scores_eval import io

    file = ScoreTSV(tmp_path / "a.tsv", CLASSES[:1])
    file._n_frames = 25 * 36_000
    file.add(np.ones((1, 3), np.float32))
    file.close(36_000.1199)
    assert io.read_sed_scores(tmp_path / "a.tsv").onset.tolist() == [36_000.0, 36_000.04, 36_000.08]


def test_scores_by_h5py_and_torch(tmp_path):
    import h5py

    scores, blocks = score_blocks()
    file = ScoreHDF5(tmp_path / "a.h5", CLASSES)
    for block in blocks:
        file.add(block)
    file.close(2.4123)
    with h5py.File(tmp_path / "a.h5") as read:
        np.testing.assert_allclose(read["scores"][:], scores.T, atol=5e-4)
        np.testing.assert_allclose(read["timestamps"][:], [*np.arange(61) / 25, 2.4123])
        assert read["labels"].asstr()[:].tolist() == [c.label for c in CLASSES]
        assert read.attrs["duration"] == 2.4123
