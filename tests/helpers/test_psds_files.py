"""Files of scores, ground truth and durations, the command line and the plots."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from sed_scores_eval import intersection_based, io, segment_based
from sed_scores_eval.base_modules.scores import create_score_dataframe

from errors import UserError
from helpers.psds_command import main
from helpers.psds_io import match_clips, merge_overlaps, read_durations, read_ground_truth
from helpers.psds_plots import plot_classes, plot_psd_roc
from helpers.psds_scores import ScoreWriter, open_scores, write_score_tsv

NAMES = ["Dog", "Cat, cat", "Water $ tap"]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def files(tmp_path):
    """Scores of 12 clips as TSV of sed_scores_eval, ground truth and durations."""
    rng = np.random.default_rng(0)
    truth = ["filename\tonset\toffset\tevent_label"]
    durations = ["filename\tduration"]
    tables = {}
    for i in range(12):
        clip, seconds = f"clip-{i}", 10.0 if i % 3 else 7.3
        scores = np.round(rng.normal(size=(250, 3)) * 0.2, 2)
        durations.append(f"{clip}.wav\t{seconds}")
        for label in rng.choice(NAMES, rng.integers(1, 3), replace=False):
            onset = round(float(rng.uniform(0, 5)), 3)
            truth.append(f"{clip}.wav\t{onset}\t{onset + 1.5}\t{label}")
            scores[int(onset * 25) : int(onset * 25) + 37, NAMES.index(label)] += rng.choice([0.3, 3.0])
        stamps = np.minimum(np.arange(251) / 25, seconds)
        n = int((stamps < seconds).sum())
        tables[clip] = create_score_dataframe(scores[:n], stamps[: n + 1], NAMES)
    (tmp_path / "truth.tsv").write_text("\n".join(truth) + "\n")
    (tmp_path / "durations.tsv").write_text("\n".join(durations) + "\n")
    io.write_sed_scores(tables, tmp_path / "scores")
    return tmp_path


def run(files, *options, scores="scores"):
    main(
        [
            *("--scores", str(files / scores), "--ground_truth", str(files / "truth.tsv")),
            *("--durations", str(files / "durations.tsv"), *map(str, options)),
        ]
    )


def reference(files):
    return intersection_based.psds(
        str(files / "scores"),
        str(files / "truth.tsv"),
        str(files / "durations.tsv"),
        dtc_threshold=0.7,
        gtc_threshold=0.7,
        alpha_st=1.0,
        max_efpr=100.0,
    )


def test_command_equals_sed_scores_eval_on_its_own_files(files, capsys):
    run(files, "--out", files / "out", "--f1", "--bootstrap", 20)
    psds, per_class, *_ = reference(files)
    results = json.loads((files / "out" / "results.json").read_text())["models"]["scores"]
    assert 0.1 < results["psds_macro"] < 0.9
    assert results["psds"] == pytest.approx(psds, abs=1e-9)
    assert results["psds_macro"] == pytest.approx(np.mean(list(per_class.values())), abs=1e-9)
    best, *_ = segment_based.best_fscore(
        *(str(files / name) for name in ("scores", "truth.tsv", "durations.tsv")), segment_length=1.0
    )
    assert results["segment_f1"]["macro"] == pytest.approx(best["macro_average"], abs=1e-9)
    assert results["segment_f1"]["micro"] == pytest.approx(best["micro_average"], abs=1e-9)
    rows = (files / "out" / "classes.csv").read_text().splitlines()
    assert len(rows) == 4 and rows[1].startswith('"Cat, cat"')
    assert all((files / "out" / name).stat().st_size > 10_000 for name in ("psd_roc.png", "classes.png"))
    assert f"{100 * results['psds_macro']:.2f} %" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(files, "--out", files / "out")
    assert "--overwrite" in capsys.readouterr().err
    run(files, "--out", files / "out", "--overwrite")


def test_compared_with_itself_there_is_no_difference(files, capsys):
    run(files, "--save_hdf5", files / "packed.h5")
    run(files, "--compare", files / "packed.h5", "--out", files / "out", "--bootstrap", 30)
    results = json.loads((files / "out" / "results.json").read_text())
    assert list(results["models"]) == ["scores", "packed"]  # rounding to float16 changes no order here
    assert results["difference"]["psds_macro"] == {"estimate": 0.0, "low": 0.0, "high": 0.0, "std": 0.0, "n": 30}
    assert "packed - scores" in capsys.readouterr().out


def test_scores_survive_the_way_through_each_format(files):
    run(files, "--save_hdf5", files / "packed.h5")
    run(files, "--save_tsv", files / "again", scores="packed.h5")
    first, second = io.read_sed_scores(files / "scores"), io.read_sed_scores(files / "again")
    assert first.keys() == second.keys()
    for clip, table in first.items():
        assert list(second[clip].columns) == list(table.columns)
        np.testing.assert_allclose(second[clip][NAMES], table[NAMES], atol=4e-3)
        np.testing.assert_allclose(second[clip]["onset"], table["onset"], atol=1e-9)
    with pytest.raises(SystemExit):
        run(files, "--save_tsv", files / "again", scores="packed.h5")


def test_dense_pseudo_labels_are_scores_of_the_strong_classes(tmp_path):
    with h5py.File(tmp_path / "pseudo.hdf", "w") as file:
        file["filenames"] = np.array([b"abc.mp3", b"Yxyz"])
        file["strong_logits"] = np.zeros((2, 447, 250), np.float16)
    source = open_scores(tmp_path / "pseudo.hdf")
    assert source.clip_ids == ["abc", "Yxyz"] and len(source.class_names) == 447
    names, without_truth, missing = match_clips(source.clip_ids, {"Yabc": [], "Yother": []})
    assert (names, without_truth, missing) == ({"abc": "Yabc"}, ["Yxyz"], ["Yother"])


def test_clips_of_different_length_come_back(tmp_path):
    scores = np.random.default_rng(0).normal(size=(3, 2, 40)).astype(np.float32)
    with ScoreWriter(tmp_path / "s.h5", ["a", "b"], frame_rate=50.0, dtype="float32") as writer:
        writer.add(["x", "y"], scores[:2], [40, 25])
        writer.add(["z"], np.repeat(scores[2:], 2, axis=2))
    source = open_scores(tmp_path / "s.h5")
    assert source.frame_rate == 50.0
    found = {clip: s for part in source.read(["z", "x", "y"]) for clip, s in zip(part.clip_ids, part.scores)}  # noqa: B905
    np.testing.assert_array_equal(found["x"], scores[0])
    np.testing.assert_array_equal(found["y"], scores[1, :, :25])
    assert found["z"].shape == (2, 80)
    with pytest.raises(UserError, match="is there already"):
        ScoreWriter(tmp_path / "s.h5", ["a", "b"])
    with pytest.raises(RuntimeError), ScoreWriter(tmp_path / "half.h5", ["a"]):
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.h5"]


def test_both_forms_of_ground_truth_and_durations(tmp_path):
    google = tmp_path / "strong.tsv"
    google.write_text(
        "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\nb0RFKhbpFJA_30000\t0.5\t1.25\t/m/05zppz\n"
    )
    assert read_ground_truth(google) == {"Yb0RFKhbpFJA": [(0.5, 1.25, "Male speech, man speaking")]}
    plain = tmp_path / "events.tsv"
    plain.write_text("filename\tonset\toffset\tevent_label\na.b.wav\t0\t1\tDog\nempty.flac\t\t\t\n")
    assert read_ground_truth(plain) == {"a.b.wav": [(0.0, 1.0, "Dog")], "empty.flac": []}
    (tmp_path / "d.csv").write_text("Yabc,10.0\nYd.mp3,9.98\n")
    assert read_durations(tmp_path / "d.csv") == {"Yabc": 10.0, "Yd.mp3": 9.98}
    (tmp_path / "d.tsv").write_text("duration\tfilename\n3.5\tx.wav\n")
    assert read_durations(tmp_path / "d.tsv") == {"x.wav": 3.5}
    overlapping = [(2.0, 3.0, "a"), (0.0, 2.0, "a"), (0.0, 9.0, "b"), (2.5, 2.7, "a")]
    assert merge_overlaps(overlapping) == [(0.0, 3.0, "a"), (0.0, 9.0, "b")]


def rewrite(name, old, new):
    def change(files):
        path = files / name
        path.write_text(path.read_text().replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("break_it", "options", "message"),
    [
        (lambda files: (files / "scores" / "clip-3.tsv").unlink(), (), "1 clips of the ground truth, such as clip-3"),
        (rewrite("durations.tsv", "clip-1.wav", "other.wav"), (), "no duration of clip clip-1"),
        (rewrite("durations.tsv", "10.0", "ten"), (), "'ten' is not a time in seconds"),
        (rewrite("truth.tsv", "offset", "end"), (), "expected filename, onset, offset, event_label"),
        (rewrite("scores/clip-4.tsv", "0.04", "0.05"), (), "every frame must begin where the one before ends"),
        (rewrite("scores/clip-5.tsv", "Dog", "Wolf"), (), "expected frames with the columns of"),
        (rewrite("scores/clip-0.tsv", "onset", "start"), (), "expected onset, offset and one column per class"),
        (rewrite("scores/clip-2.tsv", "0.04", "x"), (), "not a table of numbers"),
        (None, ("--compare", "/nowhere"), "does not exist"),
        (None, ("--median_window", "4"), "odd number of frames"),
        (None, ("--threshold", "0.5"), "only with --f1"),
        (None, ("--median_window", "999999999"), "--median_window is 999999999: must be between 1 and 9,999"),
        (None, ("--bootstrap", "-1"), "--bootstrap is -1: must be between 0 and 100,000"),
        (None, ("--bootstrap", "99999999"), "must be between 0 and 100,000"),
        (None, ("--seed", "-1"), "--seed is -1: must be between 0"),
        (None, ("--f1", "--threshold", "nan"), "--threshold is nan: must be finite"),
    ],
)
def test_mistakes_end_in_one_line(files, capsys, break_it, options, message):
    if break_it:
        break_it(files)
    with pytest.raises(SystemExit) as stopped:
        run(files, *options)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "path", "message"),
    [
        ("--out", "truth.tsv", "a file stands where a folder is meant"),
        ("--save_tsv", "truth.tsv", "a file stands where a folder is meant"),
        ("--save_tsv", "scores", "it is read as well"),
        ("--save_hdf5", "scores", "it is a folder"),
        ("--save_hdf5", "truth.tsv", "it is read as well"),
        ("--save_hdf5", "truth.tsv/x.h5", "a file stands where a folder is meant"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_anything_is_read(files, capsys, option, path, message):
    (files / "durations.tsv").write_text("nonsense")
    before = (files / "truth.tsv").read_bytes()
    with pytest.raises(SystemExit) as stopped:
        run(files, option, files / path, "--overwrite")
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.startswith(f"error: {option} is {files}") and message in error
    assert (files / "truth.tsv").read_bytes() == before


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as stopped:
        ScoreWriter(tmp_path / "folder" / ("x" * 300), ["a"])
    assert stopped.value.filename.endswith("x" * 300)
    with ScoreWriter(tmp_path / "new" / "one.h5", ["a"]) as writer:
        writer.add(["clip"], np.zeros((1, 1, 4)))
    assert open_scores(tmp_path / "new" / "one.h5").clip_ids == ["clip"]


def test_partial_scores_and_module_entry(files):
    (files / "scores" / "clip-3.tsv").unlink()
    command = [sys.executable, "-m", "helpers.psds", "--scores", files / "scores", "--partial"]
    command += ["--ground_truth", files / "truth.tsv", "--durations", files / "durations.tsv"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "11 clips" in done.stdout, done.stderr


def test_names_of_clips_never_lead_out_of_the_folder(tmp_path):
    for name in ("../x", "a/../b", "/b", "a//b", "a\\b", "..", ""):
        with pytest.raises(UserError, match="out of"):
            write_score_tsv(tmp_path / "out", name, np.zeros((1, 2)), np.arange(3.0), ["a"])


def test_plots_of_many_classes(tmp_path):
    values = {f"class ${i}": i / 407 for i in range(407)}
    plot_classes(tmp_path / "bars.svg", {"ours": values, "theirs": {name: 0.5 for name in values}}, "PSDS1")
    plot_psd_roc(tmp_path / "roc.svg", {"a $b$": (np.array([0.1, 0.4]), np.array([0.0, 50.0]), 0.25)}, 100.0)
    assert "class $406" in (tmp_path / "bars.svg").read_text() or (tmp_path / "bars.svg").stat().st_size > 50_000


def test_without_durations_all_clips_last_10_seconds(files, capsys):
    command = ["--scores", str(files / "scores"), "--ground_truth", str(files / "truth.tsv")]
    with pytest.raises(SystemExit) as stop:
        main(command)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "end at 7.3 s" in error and "give --durations FILE" in error
    for path in (files / "scores").iterdir():
        if len(path.read_text().splitlines()) < 251:  # a header and 250 frames
            path.unlink()
    main([*command, "--partial"])
    without = capsys.readouterr().out
    main([*command, "--partial", "--durations", str(files / "durations.tsv")])
    assert re.sub(r"[\d.]+ s\n", "", without) == re.sub(r"[\d.]+ s\n", "", capsys.readouterr().out)
    with (files / "truth.tsv").open("a") as truth:
        truth.write("clip-1.wav\t9\t12\tDog\n")
    with pytest.raises(SystemExit):
        main([*command, "--partial"])
    assert "clip clip-1.wav has an event that ends at 12 s" in capsys.readouterr().err
