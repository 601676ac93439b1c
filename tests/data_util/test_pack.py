"""From a folder of files to a packed file: round trips, odd files, kills, repeats."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.signal
import soundfile

from data_util import pack as pack_module
from data_util.audio import decode, decode_channels
from data_util.hdf5_dataset import Mp3File
from data_util.label_files import read_strong_tsv, read_weak_csv
from data_util.labels import load_vocabulary, unpack_weak_target
from data_util.pack import find_audio, main, pack, report_path
from data_util.pack_clip import pack_clip
from errors import UserError
from tests.lock_holder import written_by_another

ROOT = Path(__file__).resolve().parents[2]
SPEECH, DOG, CAT = "/m/09x0r", "/m/0bt9lr", "/m/01yrx"
STRONG_HEADER = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
WEAK_HEADER = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n"
    "# num_ytids=2\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)


def wave(seconds, rate, seed=0):
    noise = np.random.default_rng(seed).standard_normal(round(seconds * rate))
    sos = scipy.signal.butter(6, 3000, fs=rate, output="sos")
    return (0.1 * scipy.signal.sosfiltfilt(sos, noise)).astype(np.float32)


def mp3(audio, rate=32_000):
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, rate, format="MP3", subtype="MPEG_LAYER_III")
    return buffer.getvalue()


def read_report(out):
    with report_path(out).open(newline="") as file:
        return {(row["clip_id"], row["problem"]): row for row in csv.DictReader(file)}


def strong_labels(tmp_path, ytids, mid=DOG):
    path = tmp_path / "labels.tsv"
    segments = [f"{y}_30000" if len(y) == 11 else y for y in ytids]  # those of AudioSet have 11 characters
    path.write_text(STRONG_HEADER + "".join(f"{s}\t0\t1\t{mid}\n" for s in segments))
    return path


def test_round_trip_of_formats_rates_channels_and_names(tmp_path):
    """Audio comes back within the error of MP3, whatever the source; labels exactly."""
    audio = tmp_path / "audio"
    (audio / "deep" / "er").mkdir(parents=True)
    sources = {
        "-_wavStereo": ("Y-_wavStereo.wav", 44_100, 2, 10.0),
        "_flac_48k__": ("deep/_flac_48k__.flac", 48_000, 1, 10.0),
        "oggShort_16": ("deep/er/oggShort_16_30000.ogg", 16_000, 1, 4.0),
    }
    sources["mp3LongDash"] = ("deep/Ymp3LongDash.mp3", 22_050, 1, 13.0)
    for seed, (name, rate, channels, seconds) in enumerate(sources.values()):
        samples = wave(seconds, rate, seed)
        # Channels that differ, with the mean of the original
        samples = np.stack([1.5 * samples, 0.5 * samples], axis=1) if channels == 2 else samples
        soundfile.write(audio / name, samples, rate)
    (audio / "notes.txt").write_text("no audio")
    out = tmp_path / "out.hdf"
    problems = pack(audio, [strong_labels(tmp_path, sources)], out, workers=1).problems
    assert [(p.clip_id, p.problem) for p in problems] == [("Ymp3LongDash", "too long")]
    reader = Mp3File(out)
    assert sorted(reader.clip_ids) == sorted(f"Y{y}" for y in sources)
    for seed, (ytid, (name, rate, _, seconds)) in enumerate(sources.items()):
        row = reader.clip_ids.tolist().index(f"Y{ytid}")
        decoded = decode_channels(reader.mp3(row))
        stored, stored_rate = decoded.audio, decoded.sample_rate
        assert stored_rate == 32_000 and stored.shape[1] == 1
        assert abs(len(stored) / 32_000 - min(seconds, 10.0)) < 0.01
        original = wave(seconds, rate, seed).astype(float)
        gcd = np.gcd(16_000, rate)
        expected = scipy.signal.resample_poly(original, 16_000 // gcd, rate // gcd)
        found = decode(reader.mp3(row))
        n = min(len(found), len(expected), 150_000) - 1000
        error = found[1000:n] - expected[1000:n]
        lossy_twice = name.endswith((".ogg", ".mp3"))
        least = 7 if lossy_twice else 12  # dB; a shift by one sample or a wrong level would give less
        assert 10 * np.log10(np.mean(expected[1000:n] ** 2) / np.mean(error**2)) > least
        labels = unpack_weak_target(reader.target(row), 527)
        assert [load_vocabulary("weak").mids[c] for c in np.flatnonzero(labels)] == [DOG]


def test_mp3_bytes_that_fit_are_kept_and_others_are_not(tmp_path):
    fits, wrong_rate, stereo = mp3(wave(10, 32_000)), mp3(wave(10, 44_100), 44_100), wave(10, 32_000, 1)
    stereo = mp3(np.stack([stereo, stereo], axis=1))
    too_long = mp3(wave(12, 32_000))
    for name, data in zip("abcd", (fits, wrong_rate, stereo, too_long), strict=True):
        (tmp_path / f"{name}.mp3").write_bytes(data)
    out = tmp_path / "out.hdf"
    pack(tmp_path, [strong_labels(tmp_path, "abcd")], out, workers=1)
    reader = Mp3File(out)
    assert reader.mp3(0).tobytes() == fits
    for row, data in enumerate((wrong_rate, stereo, too_long), start=1):
        assert reader.mp3(row).tobytes() != data
        assert soundfile.info(io.BytesIO(reader.mp3(row).tobytes())).channels == 1


def test_every_kind_of_problem_is_reported(tmp_path):
    audio = tmp_path / "audio"
    audio.mkdir()
    good = wave(2, 16_000)
    soundfile.write(audio / "good.wav", good, 16_000)
    soundfile.write(audio / "short.wav", good[:1600], 16_000)
    soundfile.write(audio / "silent.wav", np.zeros(32_000), 16_000)
    soundfile.write(audio / "clipped.wav", np.clip(50 * good, -1, 1), 16_000)
    soundfile.write(audio / "twice.wav", wave(2, 16_000, 1), 16_000)
    soundfile.write(audio / "twice.flac", wave(2, 16_000, 1), 16_000)
    (audio / "copy.wav").write_bytes((audio / "good.wav").read_bytes())
    (audio / "broken.mp3").write_bytes(b"\xff\xfb" + b"\0" * 100)
    (audio / "empty.wav").write_bytes(b"")
    soundfile.write(audio / "tick.wav", good[:1], 192_000)
    ytids = ["good", "short", "silent", "clipped", "twice", "copy", "broken", "empty", "tick", "gone"]
    out = tmp_path / "out.hdf"
    pack(audio, [strong_labels(tmp_path, ytids)], out, workers=1)
    report = read_report(out)
    assert set(report) == {
        ("Yshort", "too short"),
        ("Ysilent", "silent"),
        ("Yclipped", "clipped"),
        ("Ytwice", "duplicated"),
        ("Ygood", "same audio"),
        ("Ybroken", "unreadable"),
        ("Yempty", "unreadable"),
        ("Ytick", "unreadable"),
        ("Ygone", "missing"),
    }
    assert report["Ytwice", "duplicated"]["file"] == "twice.wav"
    assert report["Ygood", "same audio"]["detail"] == "as Ycopy"  # labels come sorted by clip
    packed = Mp3File(out).clip_ids.tolist()
    assert sorted(packed) == sorted(f"Y{y}" for y in ytids if y not in ("broken", "empty", "tick", "gone"))


def test_weak_csv_as_published(tmp_path):
    path = tmp_path / "balanced_train_segments.csv"
    path.write_text(f'{WEAK_HEADER}--PJ_xphWEs, 30.000, 40.000, "{SPEECH},{DOG}"\n_-b, 0.000, 10.000, "{CAT}"\n')
    labels = read_weak_csv(path, load_vocabulary("weak"))
    assert labels.clip_ids == ["Y--PJ_xphWEs", "Y_-b"] and labels.start_ms == [30_000, 0]
    assert labels.mids == [(SPEECH, DOG), (CAT,)]
    for name in ("--PJ_xphWEs_30000.wav", "_-b.wav"):
        soundfile.write(tmp_path / name, wave(1.5, 16_000), 16_000)
    pack(tmp_path, [path, strong_labels(tmp_path, ["_-b"])], tmp_path / "out.hdf", workers=1)
    target = unpack_weak_target(Mp3File(tmp_path / "out.hdf").targets(), 527)
    mids = load_vocabulary("weak").mids
    assert [{mids[c] for c in np.flatnonzero(row)} for row in target] == [{SPEECH, DOG}, {CAT}]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('abc, 0.0, 10.0, "/m/nosuch"', ["line 4", "/m/nosuch"]),
        ("abc, 0.0", ["line 4", "abc"]),
        (f'abc, ten, 20, "{DOG}"', ["line 4", "ten"]),
        (f'abc, 10, 5, "{DOG}"', ["line 4"]),
    ],
)
def test_bad_weak_csv(tmp_path, row, words):
    path = tmp_path / "weak.csv"
    path.write_text(WEAK_HEADER + row + "\n")
    with pytest.raises(UserError) as caught:
        read_weak_csv(path, load_vocabulary("weak"))
    assert all(word in str(caught.value) for word in ["weak.csv", *words])


def make_folder(tmp_path, n=10):
    audio = tmp_path / "audio"
    audio.mkdir()
    for i in range(n):
        soundfile.write(audio / f"clip{i}.wav", wave(1.2, 16_000, i), 16_000)
    return audio, strong_labels(tmp_path, [f"clip{i}" for i in range(n)])


def contents(path):
    with h5py.File(path) as file:
        mp3s = [row.tobytes() for row in file["mp3"][:]]
        return file["audio_name"][:].tolist(), mp3s, file["target"][:].tolist()


def test_same_request_does_nothing_and_another_needs_overwrite(tmp_path, capsys):
    audio, labels = make_folder(tmp_path, 3)
    out = tmp_path / "out.hdf"
    arguments = ["--audio", str(audio), "--labels", str(labels), "--out", str(out), "--workers", "2"]
    main(arguments)
    assert "3 clips packed; no problems" in capsys.readouterr().out
    before = out.stat().st_mtime_ns
    main(arguments)
    assert "nothing to do" in capsys.readouterr().out and out.stat().st_mtime_ns == before
    soundfile.write(audio / "clip0.wav", wave(2.5, 16_000), 16_000)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and "--overwrite" in capsys.readouterr().err.splitlines()[-1]
    main([*arguments, "--overwrite"])
    assert len(decode(Mp3File(out).mp3(0))) == 40_000
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "audio",
        "labels.tsv",
        "out.hdf",
        "out.hdf.report.csv",
    ]


def test_number_of_workers_and_batches_do_not_change_the_contents(tmp_path, monkeypatch):
    audio, labels = make_folder(tmp_path)
    pack(audio, [labels], tmp_path / "one.hdf", workers=1)
    monkeypatch.setattr(pack_module, "BATCH", 3)
    pack(audio, [labels], tmp_path / "two.hdf", workers=2)
    assert contents(tmp_path / "one.hdf") == contents(tmp_path / "two.hdf")


@pytest.mark.slow
def test_kill_and_resume_gives_the_same_contents(tmp_path):
    """SIGKILL in the middle; the second run keeps the finished batches and ends with the same file."""
    audio, labels = make_folder(tmp_path, 40)
    pack(audio, [labels], tmp_path / "whole.hdf", workers=1)
    out = tmp_path / "killed.hdf"
    code = "import sys; from data_util import pack; pack.BATCH = 4; pack.main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "--audio", str(audio), "--labels", str(labels), "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*command, "--workers", "1"], env=environment, stderr=subprocess.DEVNULL)
    parts = tmp_path / "killed.hdf.parts"
    deadline = time.monotonic() + 60
    while len(list(parts.glob("0*.hdf"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not out.exists()
    done = {path: path.stat().st_mtime_ns for path in parts.glob("0*.hdf")}
    assert 2 <= len(done) < 10
    resumed = subprocess.run([*command, "--workers", "2"], env=environment, capture_output=True, text=True, check=True)
    assert contents(out) == contents(tmp_path / "whole.hdf")
    assert read_report(out) == read_report(tmp_path / "whole.hdf")
    assert f"{4 * len(done)}/40" in resumed.stderr  # the bar starts where the killed run was
    assert not parts.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--audio", "nowhere"], "expected a folder, got a path that does not exist"),
        (["--audio", "empty"], "holds no audio files"),
        (["--labels", "missing.tsv"], "missing.tsv"),
        (["--workers", "0"], "--workers 0"),
        (["--min_seconds", "-1"], "--min_seconds"),
        (["--min_seconds", "nan"], "--min_seconds nan"),
        (["--min_seconds", "inf"], "--min_seconds inf"),
        (["--out", "empty"], "empty: it is a folder"),
        (["--labels", "other.tsv"], "named after a clip"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path, 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.tsv").write_text(f"{STRONG_HEADER}other\t0\t1\t{DOG}\n")
    defaults = {"--audio": "audio", "--labels": "labels.tsv", "--out": "out.hdf"}
    defaults.update(zip(arguments[::2], arguments[1::2], strict=True))
    with pytest.raises(SystemExit) as stopped:
        main([word for pair in defaults.items() for word in pair])
    error = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and words in error and len(error.splitlines()) == 1


def test_a_folder_of_broken_files_makes_no_output(tmp_path):
    (tmp_path / "a.mp3").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not one of the 1 files can be read"):
        pack(tmp_path, [strong_labels(tmp_path, ["a"])], tmp_path / "out.hdf", workers=1)
    assert not (tmp_path / "out.hdf").exists()


def test_a_kill_between_output_and_report_loses_no_report(tmp_path, monkeypatch):
    audio, labels = make_folder(tmp_path, 3)
    (audio / "clip1.wav").write_bytes(b"")
    out = tmp_path / "out.hdf"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pack_module, "_write_report", killed)
        pack(audio, [labels], out, workers=1)
    assert out.exists() and not report_path(out).exists()
    assert not pack(audio, [labels], out, workers=1).is_new
    assert set(read_report(out)) == {("Yclip1", "unreadable")}
    assert not (tmp_path / "out.hdf.parts").exists()


def test_progress_of_another_request_stays(tmp_path):
    audio, labels = make_folder(tmp_path, 2)
    out = tmp_path / "out.hdf"
    pack(audio, [labels], out, workers=1)
    parts = tmp_path / "out.hdf.parts"
    parts.mkdir()
    (parts / "request.json").write_text("another")
    assert not pack(audio, [labels], out, workers=1).is_new and parts.exists()


def test_batches_of_another_request_are_never_used(tmp_path, monkeypatch):
    """Whatever the folder says it holds: each batch says itself what it was made from."""
    monkeypatch.setattr(pack_module, "BATCH", 2)
    audio, labels = make_folder(tmp_path, 4)
    pack(audio, [labels], tmp_path / "whole.hdf", workers=1)
    request = pack_module._request_of(tmp_path / "whole.hdf")
    out, parts = tmp_path / "out.hdf", tmp_path / "out.hdf.parts"
    parts.mkdir()
    (parts / "request.json").write_text(request)
    batches = {"000000000.hdf": "another", "000000002.hdf": request}
    for name, made_from in batches.items():
        task = pack_module.Task(f"Y{name[:9]}", "x.wav", bytes(66))
        pack_module._write_part(parts / name, [task], [pack_module.PackedClip(b"mp3", "digest", [])], made_from)
    pack(audio, [labels], out, workers=1)
    assert Mp3File(out).clip_ids.tolist() == [*Mp3File(tmp_path / "whole.hdf").clip_ids[:2], "Y000000002"]


def test_two_at_once_are_refused(tmp_path, capsys):
    audio, labels = make_folder(tmp_path, 1)
    out = tmp_path / "out.hdf"
    with written_by_another(out) as line, pytest.raises(SystemExit) as stopped:
        main(["--audio", str(audio), "--labels", str(labels), "--out", str(out), "--workers", "1"])
    assert stopped.value.code == 2 and not out.exists() and capsys.readouterr().err.startswith(line)
    pack(audio, [labels], out, workers=1)
    assert len(Mp3File(out)) == 1


def test_the_report_follows_the_labels(tmp_path):
    """More labelled clips without audio: nothing to pack, but they are missing."""
    audio, labels = make_folder(tmp_path, 2)
    out = tmp_path / "out.hdf"
    outcome = pack(audio, [labels], out, workers=1)
    assert outcome.is_new and outcome.problems == []
    labels.write_text(labels.read_text() + f"gone\t0\t1\t{DOG}\n")
    assert not pack(audio, [labels], out, workers=1).is_new
    assert set(read_report(out)) == {("Ygone", "missing")}


def test_a_crash_of_the_decoder_costs_one_clip(tmp_path, monkeypatch):
    """Worker processes are forked here, so they crash where the main process says."""
    audio, labels = make_folder(tmp_path, 12)

    def crash(path, **rules):
        return os._exit(1) if path.stem == "clip3" else pack_clip(path, **rules)

    crash.__module__, crash.__qualname__ = pack_module.__name__, "pack_clip"  # as pickle finds it
    monkeypatch.setattr(pack_module, "pack_clip", crash)
    pack(audio, [labels], tmp_path / "out.hdf", workers=2)
    assert len(Mp3File(tmp_path / "out.hdf")) == 11
    assert "died" in read_report(tmp_path / "out.hdf")["Yclip3", "unreadable"]["detail"]


def test_links_to_folders_are_followed_once(tmp_path):
    audio, _ = make_folder(tmp_path, 1)
    (tmp_path / "collection").mkdir()
    (tmp_path / "collection" / "link").symlink_to(audio)
    (audio / "back").symlink_to(tmp_path / "collection")
    assert find_audio(tmp_path / "collection") == {"clip0": ["link/clip0.wav"]}


# ---- names of one's own, and where everything went ------------------------------------------------------------


def make_files(folder, *names):
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, wave(1.2, 16_000, i), 16_000)


def labelled(path):
    return dict(zip(Mp3File(path).clip_ids.tolist(), [m.tobytes() for m in Mp3File(path).targets()], strict=True))


OWN_IDS = ["rec_1000", "rec_2000", "rec_3000", "SITE_20240512_060000", "SITE_20240512_061000", "A20240512_1_060000"]


@pytest.mark.parametrize("form", ["segment_id", "filename", "csv", "weak"])
def test_ids_that_look_like_segments_are_the_files_of_that_name(tmp_path, capsys, form):
    """The same clips are in the packed file and in what training reads from the table."""
    make_files(tmp_path / "audio", *(f"{name}.wav" for name in OWN_IDS))
    mids = [DOG, CAT, SPEECH, DOG, CAT, SPEECH]
    path = tmp_path / ("labels.csv" if form in ("csv", "weak") else "labels.tsv")
    if form == "segment_id":
        text = STRONG_HEADER + "".join(f"{i}\t0\t1\t{m}\n" for i, m in zip(OWN_IDS, mids, strict=True))
    elif form == "weak":
        text = "filename,labels\n" + "".join(f'{i}.wav,"{m}"\n' for i, m in zip(OWN_IDS, mids, strict=True))
    else:
        text = "filename\tonset\toffset\tlabel\n"
        text += "".join(f"{i}.wav\t0\t1\t{m}\n" for i, m in zip(OWN_IDS, mids, strict=True))
        text = text.replace("\t", ",") if form == "csv" else text
    path.write_text(text)
    main(["--audio", str(tmp_path / "audio"), "--labels", str(path), "--out", str(tmp_path / "out.hdf")])
    said = capsys.readouterr().out
    assert "6 clips packed; no problems" in said
    assert "6 audio files: 6 packed\n6 table rows: 6 packed\n" in said
    found = labelled(tmp_path / "out.hdf")
    names = load_vocabulary("weak").mids
    assert {clip: names[int(np.flatnonzero(unpack_weak_target(np.frombuffer(t, np.uint8)[None], 527)[0])[0])]
            for clip, t in found.items()} == {f"Y{i}": m for i, m in zip(OWN_IDS, mids, strict=True)}  # fmt: skip
    if form != "weak":
        assert read_strong_tsv(path, load_vocabulary("strong")).clip_ids.tolist() == sorted(found)


def test_names_with_folders_and_other_forms_of_letters(tmp_path):
    make_files(tmp_path / "audio", "a/x.wav", "b/x.wav", "Zu\u0308rich.wav", "c/y.flac", "c/y.wav")
    path = tmp_path / "labels.tsv"
    names = ["a/x.wav", "b\\x", "Z\u00fcrich.wav", "c/y.wav"]
    path.write_text("filename\tonset\toffset\tevent_label\n" + "".join(f"{n}\t0\t1\t{DOG}\n" for n in names))
    problems = pack(tmp_path / "audio", [path], tmp_path / "out.hdf", workers=1).problems
    clips = sorted(Mp3File(tmp_path / "out.hdf").clip_ids.tolist())
    assert clips == ["YZ\u00fcrich", "Ya__x", "Yb__x", "Yc__y"]
    assert [tuple(p) for p in problems] == [("Yc__y", "duplicated", "c/y.wav is taken", "c/y.flac")]
    assert read_strong_tsv(path, load_vocabulary("strong")).clip_ids.tolist() == clips


def test_every_file_and_every_row_is_accounted_for(tmp_path, capsys):
    audio = tmp_path / "audio"
    make_files(audio, "good.wav", "abcdefghijk_30000.wav", "twice.wav", "twice.flac", "stray.wav", "other/stray.wav")
    (audio / "broken.wav").write_bytes(b"nothing")
    rows = [("good", 3), ("abcdefghijk_30000", 2), ("abcdefghijk_50000", 4), ("twice", 1), ("broken", 2), ("gone", 5)]
    strong = tmp_path / "strong.tsv"
    strong.write_text(STRONG_HEADER + "".join(f"{name}\t{i}\t{i + 1}\t{DOG}\n" for name, n in rows for i in range(n)))
    weak = tmp_path / "weak.csv"
    weak.write_text(WEAK_HEADER + "".join(f'{n}, 0, 10, "{CAT}"\n' for n in ("good", "good", "gone")))
    request = ["--audio", str(audio), "--labels", str(strong), "--labels", str(weak), "--out", str(tmp_path / "o.hdf")]
    lines = [
        "7 audio files: 3 packed, 2 no label, 1 duplicate, 1 unreadable",
        "20 table rows: 7 packed, 6 no audio, 5 duplicate, 2 unreadable",
    ]
    main(request)
    assert capsys.readouterr().out.splitlines()[1:] == lines
    main(request)
    assert capsys.readouterr().out.splitlines()[1:] == lines  # also where there is nothing to do
    with report_path(tmp_path / "o.hdf").open(newline="") as file:
        unlabelled = [row["file"] for row in csv.DictReader(file) if row["problem"] == "no label"]
    assert unlabelled == ["other/stray.wav", "stray.wav"]


def test_what_lies_after_10_s_is_told_and_no_label_of_the_clip(tmp_path, capsys):
    audio = tmp_path / "audio"
    audio.mkdir()
    for name, seconds in (("long", 25), ("short", 10)):
        soundfile.write(audio / f"{name}.wav", wave(seconds, 16_000, seconds), 16_000)
    (tmp_path / "own.csv").write_text(
        "filename,onset,offset,label\n"
        f"long.wav,9.9,11,Dog\nlong.wav,10,12,cat\nlong.wav,20,21,{SPEECH}\nshort.wav,1,2,Cat\n"
    )
    main(["--audio", str(audio), "--labels", str(tmp_path / "own.csv"), "--out", str(tmp_path / "o.hdf")])
    said = capsys.readouterr()
    assert "2 clips packed; 1 too long" in said.out
    assert "2 audio files: 2 packed\n4 table rows: 2 packed, 2 after 10 s\n" in said.out
    bars = [line for line in said.err.splitlines() if line.startswith("packing")]
    assert " 2/2 " in bars[-1]
    assert set(read_report(tmp_path / "o.hdf")) == {("Ylong", "too long")}
    weak = load_vocabulary("weak")
    targets = {clip: unpack_weak_target(np.frombuffer(t, np.uint8)[None], 527)[0]
               for clip, t in labelled(tmp_path / "o.hdf").items()}  # fmt: skip
    found = {clip: [weak.mids[i] for i in np.flatnonzero(t)] for clip, t in targets.items()}
    assert found == {"Ylong": [DOG], "Yshort": [CAT]}


def test_labels_are_names_or_mids(tmp_path):
    make_files(tmp_path / "audio", "x.wav", "y.wav")
    laughs = "Chuckle, chortle"  # a name with a comma
    (tmp_path / "weak.csv").write_text(f'filename,labels\nx.wav,"{laughs}"\ny.wav,"dog,{CAT}"\n')
    pack(tmp_path / "audio", [tmp_path / "weak.csv"], tmp_path / "out.hdf", workers=1)
    weak = load_vocabulary("weak")
    found = {clip: np.flatnonzero(unpack_weak_target(np.frombuffer(t, np.uint8)[None], 527)[0]).tolist()
             for clip, t in labelled(tmp_path / "out.hdf").items()}  # fmt: skip
    assert found == {"Yx": [weak.names.index(laughs)], "Yy": sorted(weak.index_by_mid[m] for m in (DOG, CAT))}
    for label, mid in (("Dog", DOG), ("dOG", DOG), ("Cat", CAT)):
        (tmp_path / "s.csv").write_text(f"filename,onset,offset,label\nx.wav,0,1,{label}\n")
        strong = load_vocabulary("strong")
        assert read_strong_tsv(tmp_path / "s.csv", strong).class_index.tolist() == [strong.index_by_mid[mid]]


def test_a_file_belongs_to_the_clip_that_has_its_name(tmp_path):
    make_files(tmp_path / "audio", "Yab.wav", "ab.wav")
    problems = pack(
        tmp_path / "audio", [strong_labels(tmp_path, ["ab", "Yab"])], tmp_path / "out.hdf", workers=1
    ).problems
    assert problems == [] and sorted(Mp3File(tmp_path / "out.hdf").clip_ids) == ["YYab", "Yab"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "filename,remark\nx.wav,1\n", "no column of labels; expected filename and label"),
        ("a.csv", f"filename,label\nx.wav,{DOG},{CAT}\n", "line 2: .* does not fit the header filename,label"),
        ("a.csv", "filename,label\nx.wav,Hund\n", "line 2: label 'Hund' .*expected a name or MID"),
        ("a.tsv", f"filename\tonset\toffset\tlabel\nx.wav\tnan\t1\t{DOG}\n", "line 2: onset 'nan'"),
        ("a.tsv", f"filename\tonset\tlabel\nx.wav\t0\t{DOG}\n", "no column end_time_seconds"),
    ],
)
def test_bad_tables_of_ones_own(tmp_path, name, text, words):
    make_files(tmp_path / "audio", "x.wav")
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        pack(tmp_path / "audio", [tmp_path / name], tmp_path / "out.hdf", workers=1)
