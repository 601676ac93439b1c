"""The synthetic set: its format, its truth, its reproducibility, its manners."""

from __future__ import annotations

import hashlib
import json

import h5py
import numpy as np
import pandas as pd
import pytest
import soundfile

from data_util import synthetic
from data_util.audio import decode_channels
from data_util.hdf5_dataset import Mp3File
from data_util.labels import load_vocabulary
from data_util.sounds import RATE, SOUNDS
from data_util.synthetic import Request, main, make_audio, make_dataset, make_example, make_ytid

FILES = [
    "balanced_train_segments_mp3.hdf",
    "unbalanced_train_segments_mp3.hdf",
    "eval_segments_mp3.hdf",
    "audioset_train_strong.tsv",
    "audioset_eval_strong.tsv",
]


def digests(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("small")
    make_dataset(out, Request(train=4, eval=2, seed=9), workers=1)
    return out


def test_layout_is_that_of_packed_audioset(small):
    with h5py.File(small / FILES[1]) as file:
        assert file["audio_name"].dtype == "S20" and file["audio_name"][0].startswith(b"00/Y")
        assert h5py.check_vlen_dtype(file["mp3"].dtype) == np.uint8
        assert file["target"].dtype == np.uint8 and file["target"].shape == (3, 66)
    assert [len(Mp3File(small / name)) for name in FILES[:3]] == [1, 3, 2]
    decoded = decode_channels(Mp3File(small / FILES[0]).mp3(0))
    audio, rate = decoded.audio, decoded.sample_rate
    assert rate == 32_000 and audio.shape == (320_000, 1) and np.abs(audio).max() <= 1.05
    with (small / FILES[3]).open() as table:
        assert next(table).split() == ["segment_id", "start_time_seconds", "end_time_seconds", "label"]


def test_same_seed_same_bytes_for_any_number_of_workers(small, tmp_path):
    make_dataset(tmp_path / "again", Request(train=4, eval=2, seed=9), workers=2)
    make_dataset(tmp_path / "other", Request(train=4, eval=2, seed=10), workers=1)
    assert digests(tmp_path / "again") == digests(small)
    assert all(digests(tmp_path / "other")[name] != digests(small)[name] for name in FILES)


def test_a_second_run_does_nothing_and_another_request_is_refused(small, capsys):
    before = {name: (small / name).stat().st_mtime_ns for name in FILES}
    arguments = ["--out", str(small), "--train", "4", "--eval", "2", "--workers", "1"]
    main([*arguments, "--seed", "9"])
    assert {name: (small / name).stat().st_mtime_ns for name in FILES} == before
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--seed", "8"])
    assert stopped.value.code == 2 and "--overwrite" in capsys.readouterr().err.splitlines()[-1]


def test_foreign_files_are_not_touched(tmp_path):
    (tmp_path / FILES[2]).write_text("mine")
    with pytest.raises(synthetic.UserError, match="--overwrite"):
        make_dataset(tmp_path, Request(train=1, eval=1, seed=0))
    assert (tmp_path / FILES[2]).read_text() == "mine"
    make_dataset(tmp_path, Request(train=1, eval=1, seed=0), overwrite=True, workers=1)
    assert len(Mp3File(tmp_path / FILES[2])) == 1
    assert json.loads((tmp_path / "synthetic.json").read_text())["train"] == 1
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--train", "0"],
        ["--seed", "-1"],
        ["--label_noise", "1.5"],
        ["--workers", "0"],
        ["--out", "/dev/null"],
        ["--example", "/dev/null/a.wav"],
        None,
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(tmp_path, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([] if arguments is None else ["--out", str(tmp_path / "x"), *arguments])
    error = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and len(error) == 1 and not (tmp_path / "x").exists()
    assert error[0].startswith("error: ") and (arguments or ["--out"])[0] in error[0]


def test_classes_are_of_the_strong_vocabulary_and_many():
    strong, weak = load_vocabulary("strong"), load_vocabulary("weak")
    mids = [sound.mid for sound in SOUNDS]
    assert len(mids) == len(set(mids)) >= 14
    assert all(strong.in_eval[strong.index_by_mid[mid]] for mid in mids)
    assert len([mid for mid in mids if mid in weak.index_by_mid]) >= 12


@pytest.mark.parametrize("sound", SOUNDS, ids=lambda sound: sound.make.__name__)
def test_sounds_last_as_long_as_they_say(sound):
    """The waveform is finite, ends where the sound ends, and is silent nowhere for long."""
    for seed in range(3):
        n = round(3.0 * RATE)
        wave = sound.make(np.random.default_rng(seed), n)
        assert 0.7 * n < len(wave) <= n and np.isfinite(wave).all()
        frames = np.sqrt(np.mean(wave[: len(wave) // 3200 * 3200].reshape(-1, 3200) ** 2, axis=1))
        quiet = frames < 0.02 * frames.max()
        longest = max(map(len, "".join("x" if q else " " for q in quiet).split()), default=0)
        assert longest <= 6  # 0.6 s
        assert np.abs(wave[-3200:]).max() > 1e-3 * np.abs(wave).max()


def test_sounds_have_the_frequencies_of_their_definition():
    def peaks(name, count):
        sound = next(s for s in SOUNDS if s.make.__name__ == name)
        spectrum = np.abs(np.fft.rfft(sound.make(np.random.default_rng(0), RATE * 2)[: RATE * 2], RATE * 2))
        return sorted((np.argsort(spectrum)[-count:] / 2).tolist())

    assert peaks("dial_tone", 2) == [350, 440]
    assert {480.0, 620.0} <= set(peaks("busy_signal", 6))
    assert all(p % 50 == 0 or p % 60 == 0 for p in peaks("mains_hum", 4))
    assert min(peaks("hiss", 200)) > 3500


def test_clips_have_one_to_six_events_of_different_classes_inside_the_clip():
    counts = []
    for seed in range(30):
        audio, events = make_audio(np.random.default_rng(seed))
        assert np.abs(audio).max() <= 0.981 and audio.dtype == np.float32 and len(audio) == 320_000
        assert all(0 <= onset < offset <= 10 for onset, offset, _ in events)
        assert len({mid for _, _, mid in events}) == len(events)
        counts.append(len(events))
    assert min(counts) >= 1 and max(counts) <= 6 and len(set(counts)) >= 4


def test_events_are_audible_where_the_labels_say(small):
    """Inside an event that overlaps no other, the level lies far above that of the event-free parts."""
    table = pd.read_csv(small / "audioset_train_strong.tsv", sep="\t")
    reader = Mp3File(small / FILES[1])
    for row, clip in enumerate(reader.clip_ids):
        events = table[table.segment_id.str[:-6] == clip[1:]]
        audio = decode_channels(reader.mp3(row)).audio[:, 0]
        active = np.zeros(len(audio), bool)
        for event in events.itertuples():
            active[round(event.start_time_seconds * RATE) : round(event.end_time_seconds * RATE)] = True
        if active.all():
            continue
        level = [np.sqrt(np.mean(audio[mask] ** 2)) for mask in (active, ~active)]
        assert level[0] > 5 * level[1]


def test_ids_look_like_those_of_youtube():
    ids = [make_ytid(0, "train", i) for i in range(500)]
    assert len(set(ids)) == 500 and all(len(i) == 11 for i in ids)
    assert any(i.startswith("-") for i in ids) and any("_" in i for i in ids)


def test_label_noise_spoils_the_training_labels_only(small, tmp_path):
    make_dataset(tmp_path, Request(train=4, eval=2, seed=9, label_noise=1.0), workers=1)
    clean, noisy = digests(small), digests(tmp_path)
    assert [name for name in FILES if clean[name] != noisy[name]] == ["audioset_train_strong.tsv"]
    before, after = (pd.read_csv(d / "audioset_train_strong.tsv", sep="\t") for d in (small, tmp_path))
    assert 0 < len(after) < len(before)
    assert after.start_time_seconds.min() >= 0 and after.end_time_seconds.max() <= 10
    joined = after.merge(before, on=["segment_id", "label"])
    shift = joined.start_time_seconds_x - joined.start_time_seconds_y
    assert (shift != 0).all() and shift.abs().max() <= 1.0
    np.testing.assert_allclose(shift, joined.end_time_seconds_x - joined.end_time_seconds_y, atol=2e-3)


def test_example_file_and_its_events(tmp_path):
    path = tmp_path / "held out.wav"
    events = make_example(path, seed=1)
    audio, rate = soundfile.read(path)
    table = pd.read_csv(tmp_path / "held out.tsv", sep="\t")
    assert rate == 32_000 and len(audio) == 320_000
    assert list(table.columns) == ["filename", "onset", "offset", "event_label"] and len(table) == 3
    assert list(table.event_label) == [name for _, _, name in events]
    assert set(table.event_label) <= set(load_vocabulary("strong").names) and set(table.filename) == {path.name}
    assert make_example(path, seed=1) == events  # again: the same file, nothing to do
    with pytest.raises(synthetic.UserError, match="--overwrite"):
        make_example(path, seed=2)
    with pytest.raises(synthetic.UserError, match=r"\.wav"):
        make_example(tmp_path / "x.mp3", seed=1)


def test_durations_of_the_evaluation_clips(data_dir):
    rows = [line.split(",") for line in (data_dir / "eval_durations.csv").read_text().splitlines()]
    with h5py.File(data_dir / "eval_segments_mp3.hdf") as file:
        names = [name.decode().removesuffix(".mp3") for name in file["audio_name"][:]]
    assert [name for name, _ in rows] == names and {seconds for _, seconds in rows} == {"10"}
