"""Odd recordings through every command that reads audio: the same file gives the same sound everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import soundfile

import inference
from data_util.audio import decode, read_part
from data_util.own_data import read_own_data
from data_util.own_windows import OwnWindows
from data_util.pack import main as pack
from errors import UserError
from tests.data_util.test_audio_file import WHOLE, encode, mp3, without_info
from tests.tone_model import ToneModel, tones

RATE, SECONDS = 16_000, 8.0
EVENT = (2.0, 6.0, "Siren")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def tone_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.backends.load_torch_model", lambda *_, **__: ToneModel())


def scene() -> np.ndarray:
    return tones(SECONDS, [EVENT])


def write_recordings(folder: Path) -> None:
    """One siren from 2 s to 6 s, as nine programs leave it."""
    folder.mkdir()
    audio = scene()
    (folder / "no_header.mp3").write_bytes(without_info(mp3(audio)))
    (folder / "joined.mp3").write_bytes(mp3(audio[: 3 * RATE]) + mp3(audio[3 * RATE :]))
    plain = encode(audio)
    at = plain.index(b"data") + 4
    (folder / "length_0.wav").write_bytes(plain[:at] + bytes(4) + plain[at + 4 :])
    soundfile.write(folder / "antiphase.wav", np.stack([audio, -audio], axis=1), RATE)
    soundfile.write(folder / "integers.wav", audio * 32767, RATE, "FLOAT")
    soundfile.write(folder / "plain.flac", audio, RATE)
    soundfile.write(folder / "khz8.wav", tones(SECONDS, [EVENT], 8000), 8000)
    soundfile.write(folder / "khz384.wav", tones(SECONDS, [EVENT], 384_000), 384_000)
    soundfile.write(folder / "two.wav", np.stack([0 * audio, audio], axis=1), RATE)


def test_inference_finds_the_same_event_in_all_of_them(tone_model, tmp_path: Path, capsys) -> None:
    write_recordings(tmp_path / "in")
    options = [f"--audio_file={tmp_path / 'in'}", f"--out={tmp_path / 'out'}", "--detection_thresholds=0.3"]
    assert inference.main(options) == 0
    error = capsys.readouterr().err
    assert "2 files are odd, and were processed" in error
    assert "channel 1 is taken" in error and "divided by 32,768" in error
    for path in sorted((tmp_path / "in").iterdir()):
        events = pd.read_csv(tmp_path / "out" / f"{path.stem}.tsv", sep="\t")
        assert events.event_label.tolist() == ["Siren"], path
        np.testing.assert_allclose(events[["onset", "offset"]], [[2.0, 6.0]], atol=0.13, err_msg=str(path))
    table = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert table.seconds.between(7.99, 8.11).all() and set(table.status) == {"done"}


def test_a_stream_of_an_antiphase_recording(tone_model, tmp_path: Path, capsys) -> None:
    write_recordings(tmp_path / "in")
    assert inference.main(["--stream", str(tmp_path / "in" / "antiphase.wav"), "--detection_thresholds=0.5"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("Siren") == 2 and "channel 1 is taken" in captured.err


def test_fine_tuning_reads_the_same_sound(tmp_path: Path) -> None:
    write_recordings(tmp_path / "in")
    names = sorted(path.name for path in (tmp_path / "in").iterdir())
    rows = [f"{name},2.0,6.0,siren" for name in names]
    (tmp_path / "events.csv").write_text("\n".join(["filename,onset,offset,label", *rows]) + "\n")
    data = read_own_data(tmp_path / "in", tmp_path / "events.csv")
    assert [r.name for r in data.recordings] == names
    assert all(7.99 < r.duration < 8.11 for r in data.recordings)
    assert sum("odd audio" in note for note in data.notes) == 1
    loud = read_own_data(tmp_path / "in", tmp_path / "events.csv", channel=1)
    for recording, window in zip(data.recordings, OwnWindows(data.recordings, data.labels, 8.0, 8.0), strict=True):
        audio = window["audio"].numpy()
        level = np.sqrt(np.mean(audio[3 * RATE : 5 * RATE] ** 2))
        expected = 0.25 / np.sqrt(2) / (2 if recording.name == "two.wav" else 1)
        assert level == pytest.approx(expected, rel=0.1), recording.name
        assert np.abs(audio[: round(1.9 * RATE)]).max() < 0.01, recording.name
    (two,) = [w for w in OwnWindows(loud.recordings[-1:], loud.labels, 8.0, 8.0)]
    assert np.abs(two["audio"].numpy()).max() == pytest.approx(0.25, abs=0.01)


def test_a_recording_that_is_cut_off_is_used_or_refused(tmp_path: Path) -> None:
    write_recordings(tmp_path / "in")
    half = (tmp_path / "in" / "plain.flac").read_bytes()
    (tmp_path / "in" / "plain.flac").write_bytes(half[: len(half) // 2])
    (tmp_path / "events.csv").write_text("filename,onset,offset,label\nplain.flac,2.0,3.0,siren\n")
    data = read_own_data(tmp_path / "in", tmp_path / "events.csv")
    assert 2.0 < data.recordings[0].duration < 6.0
    assert any("plain.flac: it is cut off: it announces 8.00 s" in note for note in data.notes)
    with pytest.raises(UserError, match=r"plain\.flac.*cut off.*--strict"):
        read_own_data(tmp_path / "in", tmp_path / "events.csv", strict=True)


@pytest.mark.parametrize("options", [[], ["--channels", "first"], ["--strict"]])
def test_packing_keeps_the_same_sound(options: list[str], tmp_path: Path, capsys) -> None:
    write_recordings(tmp_path / "in")
    half = encode(scene())
    (tmp_path / "in" / "half.wav").write_bytes(half[: len(half) // 2])
    clips = {}
    for i, path in enumerate(sorted((tmp_path / "in").iterdir())):
        clips[path.stem] = f"Y{i:011d}"
        path.rename(path.with_name(f"{i:011d}{path.suffix}"))
    rows = [f"{clip[1:]}_0\t2.0\t6.0\t/m/03kmc9" for clip in clips.values()]
    header = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel"
    (tmp_path / "strong.tsv").write_text("\n".join([header, *rows]) + "\n")
    out = tmp_path / "out.hdf"
    pack(["--audio", str(tmp_path / "in"), "--labels", str(tmp_path / "strong.tsv"), "--out", str(out), *options])
    report = pd.read_csv(f"{out}.report.csv").set_index("clip_id")
    assert "cut off" in report.loc[[clips["half"]]].problem.tolist()
    with h5py.File(out) as file:
        stored = {name.decode().removesuffix(".mp3"): file["mp3"][i] for i, name in enumerate(file["audio_name"])}
    assert (clips["half"] in stored) == ("--strict" not in options)
    for name, clip in clips.items():
        if name == "half":
            continue
        audio = decode(stored[clip])
        assert 7.9 < len(audio) / RATE < 8.2, name
        share = {"two": 0.0 if "first" in options else 0.5}.get(name, 1.0)
        level = np.sqrt(np.mean(audio[3 * RATE : 5 * RATE] ** 2))
        assert level == pytest.approx(share * 0.25 / np.sqrt(2), rel=0.1, abs=1e-3), name


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_parts_for_training_equal_the_file_for_inference(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(WHOLE[name]())
    from helpers.audio_reader import read_blocks

    whole = np.concatenate(list(read_blocks(path)))
    np.testing.assert_array_equal(read_part(path, 1.5, 2.0), whole[24_000:56_000])
    assert not np.allclose(whole[24_000:56_000], whole[24_160:56_160], atol=1e-2)  # a shift of 10 ms would show


def test_a_folder_with_files_for_pyav_without_it_names_them_and_the_command(tone_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("data_util.audio_file.pyav", lambda: None)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "good.wav", scene(), RATE)
    (tmp_path / "in" / "phone.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(999))
    assert inference.main([f"--audio_file={tmp_path / 'in'}", f"--out={tmp_path / 'out'}"]) == 3
    error = capsys.readouterr().err
    assert (
        "1 files could not be read" in error and "phone.m4a" in error and "pip install -c requirements.txt av" in error
    )


def test_audio_shorter_than_two_frames(tone_model, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", scene()[2 * RATE : 2 * RATE + 800], RATE)
    assert inference.main([f"--audio_file={tmp_path / 'short.wav'}", f"--out={tmp_path}", "--format", "json"]) == 0
    assert json.loads((tmp_path / "short.json").read_text())["duration"] == 0.05


def test_standard_input_with_odd_headers(tone_model, tmp_path: Path) -> None:
    """In a second process, whose standard input is a real pipe."""
    code = (
        "import sys, inference, helpers.backends as b; sys.path.insert(0, 'tests'); from tone_model import ToneModel;"
        "b.load_torch_model = lambda *_, **__: ToneModel(); sys.exit(inference.main(sys.argv[1:]))"
    )
    for name in ("wav, length 0", "wav, chunk of odd length without padding", "wav in RF64"):
        out = tmp_path / name.replace(" ", "_")
        command = [sys.executable, "-c", code, "--audio_file=-", f"--out={out}", "--format", "json"]
        done = subprocess.run(command, input=WHOLE[name](), capture_output=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads((out / "stdin.json").read_text())["duration"] == pytest.approx(SECONDS, abs=0.01), name
