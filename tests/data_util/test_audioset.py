"""Data sets on a synthetic copy: samples, corrupt clips, missing parts."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from data_util.audio import decode
from data_util.audioset import AudioSetStrong, AudioSetWeak
from data_util.hdf5_dataset import Mp3File
from data_util.labels import load_vocabulary
from errors import UserError, one_line


def spoil(data_dir, part, rows, content=b"\xff\xfbno audio here"):
    with h5py.File(data_dir / f"{part}_segments_mp3.hdf", "r+") as file:
        for row in rows:
            file["mp3"][row] = np.frombuffer(content, np.uint8)


def test_samples_equal_the_files(data_dir):
    """Labels against pandas and a loop over frames, audio against a direct decode."""
    dataset = AudioSetStrong(data_dir, "train")
    table = pd.read_csv(data_dir / "audioset_train_strong.tsv", sep="\t")
    vocabulary = load_vocabulary("strong")
    first = Mp3File(data_dir / "balanced_train_segments_mp3.hdf")
    assert len(dataset) == 12 and dataset.clip_ids[:3] == first.clip_ids.tolist()
    for index in range(len(dataset)):
        sample = dataset[index]
        rows = table[table.segment_id.str[:-6] == sample["clip_id"][1:]]
        expected = np.zeros((447, 250))
        for row in rows.itertuples():
            for frame in range(250):
                if row.start_time_seconds < (frame + 1) / 25 - 1e-9 and row.end_time_seconds > frame / 25 + 1e-9:
                    expected[vocabulary.mids.index(row.label), frame] = 1
        np.testing.assert_array_equal(sample["strong"], expected)
        assert sample["index"] == index and sample["valid"] is True
        assert sample["audio"].shape == (160_000,) and sample["audio"].dtype == torch.float32
    np.testing.assert_allclose(dataset[1]["audio"], decode(first.mp3(1))[:160_000], atol=1e-6)


def test_weak_samples_equal_the_strong_labels(data_dir):
    """Weak targets hold the strong classes that the weak vocabulary knows, by MID."""
    strong, weak = AudioSetStrong(data_dir, "eval"), AudioSetWeak(data_dir, "eval")
    events = pd.read_csv(data_dir / "audioset_eval_strong.tsv", sep="\t")
    assert weak.clip_ids == strong.clip_ids
    for index in range(len(weak)):
        sample = weak[index]
        mids = set(events[events.segment_id.str[:-6] == sample["clip_id"][1:]].label)
        found = {weak.vocabulary.mids[c] for c in np.flatnonzero(sample["weak"])}
        assert found == mids & set(weak.vocabulary.mids) and sample["weak"].shape == (527,)
    np.testing.assert_array_equal(np.unpackbits(weak.targets()[2], count=527), weak[2]["weak"])


def test_a_clip_of_both_training_files_counts_once(data_copy):
    with h5py.File(data_copy / "balanced_train_segments_mp3.hdf") as file:
        name, target = file["audio_name"][1], file["target"][1]
    with h5py.File(data_copy / "unbalanced_train_segments_mp3.hdf", "r+") as file:
        file["audio_name"][4] = name
        other = file["target"][5]
    for dataset in (AudioSetStrong(data_copy), AudioSetWeak(data_copy)):
        assert len(dataset) == len(set(dataset.clip_ids)) == 11
    weak = AudioSetWeak(data_copy)
    assert weak.clip_ids.index(f"{name.decode().removesuffix('.mp3')}") == 1
    np.testing.assert_array_equal(weak.targets()[[1, 3 + 4]], [target, other])


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_gives_the_same_batches_for_any_number_of_workers(data_dir, workers):
    dataset = AudioSetStrong(data_dir, "train")
    loader = DataLoader(dataset, batch_size=5, num_workers=workers)
    batches = list(loader)
    assert [len(batch["clip_id"]) for batch in batches] == [5, 5, 2]
    assert batches[1]["audio"].shape == (5, 160_000) and batches[1]["strong"].shape == (5, 447, 250)
    torch.testing.assert_close(batches[2]["audio"][1], dataset[11]["audio"])


def test_evaluation_is_deterministic(data_dir):
    one, two = AudioSetStrong(data_dir, "eval")[1], AudioSetStrong(data_dir, "eval")[1]
    assert torch.equal(one["audio"], two["audio"]) and torch.equal(one["strong"], two["strong"])


def test_ground_truth_and_durations(data_copy):
    dataset = AudioSetStrong(data_copy, "eval")
    table = pd.read_csv(data_copy / "audioset_eval_strong.tsv", sep="\t")
    truth = dataset.ground_truth()
    assert sum(map(len, truth.values())) == len(table) and list(truth) == dataset.clip_ids
    names = {load_vocabulary("strong").names[load_vocabulary("strong").mids.index(m)] for m in table.label}
    assert set(dataset.class_names_present()) == names
    assert set(dataset.durations().values()) == {10.0}
    (data_copy / "eval_durations.csv").write_text(f"{dataset.clip_ids[0]},4.25\r\nYother,1.0\r\n")
    assert list(dataset.durations().values()) == [4.25, 10.0, 10.0, 10.0]
    (data_copy / "eval_durations.csv").write_text(f"{dataset.clip_ids[0]},long\n")
    with pytest.raises(UserError, match=r"eval_durations\.csv, line 1"):
        dataset.durations()


def test_a_corrupt_training_clip_is_replaced_counted_and_reported_once(data_copy):
    spoil(data_copy, "unbalanced_train", [4])
    dataset = AudioSetStrong(data_copy, "train")
    bad = dataset.clip_ids.index(Mp3File(data_copy / "unbalanced_train_segments_mp3.hdf").clip_ids[4])
    batches = list(DataLoader(dataset, batch_size=4, num_workers=2))  # met in a worker, known in the parent
    ids = [clip for batch in batches for clip in batch["clip_id"]]
    assert len(ids) == 12 and dataset.clip_ids[bad] not in ids
    assert all(batch["valid"].all() for batch in batches)
    replaced = dataset[bad]
    other = dataset.clip_ids.index(replaced["clip_id"])
    assert other == replaced["index"] == ids_index(batches, bad)
    assert torch.equal(replaced["strong"], dataset[other]["strong"])  # labels follow the audio
    assert list(dataset.corrupt_clips()) == [dataset.clip_ids[bad]]
    report = dataset.new_corrupt_report()
    assert report is not None and dataset.clip_ids[bad] in report and "1 clips" in report
    assert dataset.new_corrupt_report() is None and len(dataset.corrupt_clips()) == 1


def ids_index(batches, position):
    return int(torch.cat([batch["index"] for batch in batches])[position])


def test_a_corrupt_evaluation_clip_comes_as_silence_and_not_valid(data_copy):
    spoil(data_copy, "eval", [2])
    dataset = AudioSetStrong(data_copy, "eval")
    batch = next(iter(DataLoader(dataset, batch_size=4)))
    assert batch["valid"].tolist() == [True, True, False, True]
    assert batch["audio"][2].abs().max() == 0 and batch["clip_id"] == dataset.clip_ids
    assert list(dataset.corrupt_clips()) == [dataset.clip_ids[2]]


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_corrupt_clips_stop_with_their_list(data_copy, workers):
    spoil(data_copy, "unbalanced_train", [1, 3])
    dataset = AudioSetStrong(data_copy, "train")
    names = Mp3File(data_copy / "unbalanced_train_segments_mp3.hdf").clip_ids[[1, 3]]
    with pytest.raises(UserError) as caught:
        list(DataLoader(dataset, batch_size=4, num_workers=workers))
    text = one_line(caught.value)
    assert "2 of 12 clips" in text and "1%" in text and all(name in text for name in names)
    assert "Traceback" not in text and "\n" not in text


def test_a_set_without_a_single_good_clip_ends(data_copy):
    spoil(data_copy, "balanced_train", range(3))
    spoil(data_copy, "unbalanced_train", range(9))
    with pytest.raises(UserError, match="cannot be decoded"):
        AudioSetStrong(data_copy, "train")[0]


def test_a_missing_unbalanced_file_is_fine(data_copy):
    (data_copy / "unbalanced_train_segments_mp3.hdf").unlink()
    dataset = AudioSetStrong(data_copy, "train")
    assert len(dataset) == 3


def test_clips_that_come_twice_are_taken_once(data_copy):
    balanced, unbalanced = (data_copy / f"{p}_segments_mp3.hdf" for p in ("balanced_train", "unbalanced_train"))
    with h5py.File(unbalanced, "r") as a, h5py.File(balanced, "r+") as b:
        b["audio_name"][0] = a["audio_name"][5]
        b["audio_name"][1] = a["audio_name"][6]
        b["audio_name"][2] = a["audio_name"][6]
    dataset = AudioSetStrong(data_copy, "train")
    assert len(dataset) == len(set(dataset.clip_ids)) == 9
    truth = dataset.ground_truth()
    assert list(truth) == dataset.clip_ids
    assert dataset.events.clip_ids.tolist() == dataset.clip_ids


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("audioset_train_strong.tsv", "audioset_train_strong"),
        ("balanced_train_segments_mp3.hdf", None),
        ("*_train_segments_mp3.hdf", "balanced_train_segments_mp3.hdf"),
    ],
)
def test_missing_files(data_copy, gone, words):
    for path in data_copy.glob(gone):
        path.unlink()
    if words is None:
        assert len(AudioSetStrong(data_copy, "train")) == 9
        return
    with pytest.raises(UserError, match=words):
        AudioSetStrong(data_copy, "train")


def test_other_mistakes(data_copy, tmp_path):
    with pytest.raises(UserError, match="expected a folder, got a path that does not exist"):
        AudioSetStrong(tmp_path / "nowhere")
    with pytest.raises(UserError, match="train, eval"):
        AudioSetStrong(data_copy, "test")
    header = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
    (data_copy / "audioset_eval_strong.tsv").write_text(f"{header}other_0\t0\t1\t/m/0bt9lr\n")
    with pytest.raises(UserError, match="no clip of"):
        AudioSetStrong(data_copy, "eval")


def test_data_sets_can_be_pickled(data_dir):
    dataset = AudioSetStrong(data_dir, "eval")
    expected = dataset[0]["audio"]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0]["audio"], expected)
