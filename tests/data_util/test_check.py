"""The look over a data folder: counts against pandas, and every fault that it must see."""

from __future__ import annotations

import os
import re

import h5py
import numpy as np
import pandas as pd
import pytest

from data_util import check as check_module
from data_util.check import check, main
from data_util.hdf5_dataset import Mp3File
from data_util.labels import load_vocabulary


def run(data_dir, capsys, *options):
    try:
        main(["--data_dir", str(data_dir), *options])
        code = 0
    except SystemExit as stopped:
        code = stopped.code
    return code, capsys.readouterr()


def test_a_good_folder(data_dir, capsys):
    code, output = run(data_dir, capsys, "--decode", "all")
    assert code == 0 and "WRONG" not in output.out and output.out.rstrip().endswith("nothing is wrong")
    table = pd.read_csv(data_dir / "audioset_train_strong.tsv", sep="\t")
    assert "12 labelled clips, 12 of them here, 0 missing" in output.out
    assert f"{len(table)} events of {table.label.nunique()} of the 447 classes" in output.out
    assert f"{447 - table.label.nunique()} classes without events" in output.out
    assert "3 clips, 3 of them decoded" in output.out and "9 clips, 9 of them decoded" in output.out
    assert "0.03 h" in output.out  # nine clips of ten seconds
    for number in ("103,463", "16,996", "447 classes", "416 classes", "407"):
        assert number in output.out


def test_all_classes_with_events_are_listed_on_request(data_copy, capsys):
    names = [name for name in load_vocabulary("strong").names if "," not in name][:40]
    mids = dict(zip(load_vocabulary("strong").names, load_vocabulary("strong").mids, strict=True))
    table = data_copy / "audioset_train_strong.tsv"
    clip = pd.read_csv(table, sep="\t").segment_id[0]
    with table.open("a") as file:
        file.writelines(f"{clip}\t0\t1\t{mids[name]}\n" for name in names)
    short, long = run(data_copy, capsys)[1].out, run(data_copy, capsys, "--classes")[1].out
    of_train = [re.split(r"\n(?:train|eval): [\d,]+ clips\n", text)[1] for text in (short, long)]
    rows = [re.findall(r"^ {4} *[\d,]+  (.+)$", text, re.MULTILINE) for text in of_train]
    with_events = pd.read_csv(table, sep="\t").label.nunique()
    assert len(rows[0]) == 10 and len(rows[1]) == with_events >= 40 and set(names) <= set(rows[1])
    assert not re.search(r"^ +0  ", long, re.MULTILINE)
    assert f"{447 - with_events} classes without events: " in long


def test_missing_clips_are_told_but_not_wrong(data_copy, capsys):
    with (data_copy / "audioset_eval_strong.tsv").open("a") as table:
        table.write("gone_away-1_0\t0\t1\t/m/0bt9lr\n")
    code, output = run(data_copy, capsys)
    assert code == 0 and "5 labelled clips, 4 of them here, 1 missing" in output.out
    assert "missing: Ygone_away-1" in output.out


def spoil_clip(data_dir):
    with h5py.File(data_dir / "eval_segments_mp3.hdf", "r+") as file:
        file["mp3"][1] = np.zeros(30, np.uint8)
    return [Mp3File(data_dir / "eval_segments_mp3.hdf").clip_ids[1], "1 of 4 clips cannot be decoded"]


def truncate(data_dir):
    path = data_dir / "balanced_train_segments_mp3.hdf"
    path.write_bytes(path.read_bytes()[:-5000])
    return ["balanced_train_segments_mp3.hdf", "truncated"]


def remove_eval(data_dir):
    (data_dir / "eval_segments_mp3.hdf").unlink()
    return ["eval_segments_mp3.hdf is not there", "no clip on disk has labels in audioset_eval_strong.tsv"]


def drop_entry(data_dir):
    with h5py.File(data_dir / "eval_segments_mp3.hdf", "r+") as file:
        del file["target"]
    return ["no entry 'target'"]


def remove_labels(data_dir):
    (data_dir / "audioset_train_strong.tsv").unlink()
    return ["audioset_train_strong.tsv is not there"]


def unknown_label(data_dir):
    with (data_dir / "audioset_train_strong.tsv").open("a") as table:
        table.write("x_0\t0\t1\t/m/what\n")
    return ["/m/what"]


def leak(data_dir):
    with h5py.File(data_dir / "eval_segments_mp3.hdf", "r") as source:
        name = source["audio_name"][0]
    with h5py.File(data_dir / "balanced_train_segments_mp3.hdf", "r+") as file:
        file["audio_name"][0] = name
    return ["1 clips are in training and in evaluation"]


def repeat(data_dir):
    with h5py.File(data_dir / "eval_segments_mp3.hdf", "r+") as file:
        file["audio_name"][0] = file["audio_name"][1]
    return ["1 clips come more than once"]


def bad_durations(data_dir):
    (data_dir / "eval_durations.csv").write_text("Yx,minus\n")
    return ["eval_durations.csv, line 1"]


FAULTS = [
    spoil_clip,
    truncate,
    remove_eval,
    drop_entry,
    remove_labels,
    unknown_label,
    leak,
    repeat,
    bad_durations,
]


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found_and_the_exit_code_is_1(data_copy, capsys, fault):
    words = fault(data_copy)
    code, output = run(data_copy, capsys, "--decode", "all")
    wrong = [line for line in output.out.splitlines() if line.startswith("WRONG")]
    assert code == 1 and all(any(word in line for line in wrong) for word in words)
    assert f"{len(wrong)} things are wrong" in output.out


def test_decoding_a_sample_only(data_copy):
    spoil_clip(data_copy)
    assert check(data_copy, decode_count=0).wrong == []
    assert any("2 of them decoded" in line for line in check(data_copy, decode_count=2).lines)


def test_nothing_to_look_at_is_exit_code_2(tmp_path, capsys, monkeypatch):
    assert run(tmp_path / "nowhere", capsys)[0] == 2
    code, output = run(tmp_path, capsys)
    assert code == 2 and "eval_segments_mp3.hdf" in output.err and len(output.err.splitlines()) == 1
    monkeypatch.delenv("AUDIOSET_DIR", raising=False)
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2 and "AUDIOSET_DIR" in capsys.readouterr().err


def test_clips_per_split_and_classes_of_the_label_file(data_copy, capsys):
    vocabulary = load_vocabulary("strong")
    lacking = vocabulary.mids[vocabulary.in_eval.index(False)]
    path = data_copy / "audioset_eval_strong.tsv"
    clip = pd.read_csv(path, sep="\t").segment_id[0]
    with path.open("a") as table:
        table.write(f"{clip}\t0\t1\t{lacking}\n{clip}\t0\t1\t{min(vocabulary.ignored_mids)}\n")
    n_labels = pd.read_csv(path, sep="\t").label.nunique()
    output = run(data_copy, capsys)[1].out
    assert "\ntrain: 12 clips" in output and "\neval: 4 clips" in output
    assert f"{n_labels} classes in audioset_eval_strong.tsv" in output
    assert f" events of {n_labels - 2} of the 407 classes" in output and "1 events of 1 classes that are not" in output


def test_a_crash_of_the_decoder_names_its_clip(data_copy, monkeypatch):
    """Worker processes are forked here, so they crash where the main process says."""
    whole = check_module.decode_channels
    fatal = Mp3File(data_copy / "eval_segments_mp3.hdf").mp3(2).tobytes()
    monkeypatch.setattr(
        check_module, "decode_channels", lambda data: os._exit(1) if data.tobytes() == fatal else whole(data)
    )
    wrong = check(data_copy, decode_count=None).wrong
    clip = Mp3File(data_copy / "eval_segments_mp3.hdf").clip_ids[2]
    assert len(wrong) == 1 and f"1 of 4 clips cannot be decoded: {clip} (the process that decoded it died" in wrong[0]
