"""Which files of a folder are audio, through links and loops, the same for everybody who looks for them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from data_util import own_data, pack
from data_util.audio_folders import AUDIO_ENDINGS, beneath, is_audio_name
from errors import UserError
from helpers.augment.impulse import load_impulse_responses
from helpers.inputs import find_audio


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in beneath(folder)]


def test_everything_that_looks_like_audio_in_any_case_and_depth(tmp_path):
    kept = ["B.WAV", "a.m4a", "deep/er/c.Mp4", "deep/d.wma", "deep/e.amr", "x.wav/inside.flac"]
    make(tmp_path, *kept, "notes.txt", "film.mkv", ".hidden/h.wav", "deep/._a.wav", "wav", "a.wav.part")
    assert names(tmp_path) == sorted(kept, key=lambda name: Path(name))
    assert is_audio_name("x/y.OGG") and not is_audio_name("x.wav/y")


def test_a_folder_is_found_under_its_own_path_before_any_link_to_it(tmp_path):
    make(tmp_path, "z/one.wav", "b/two.wav")
    (tmp_path / "a_link").symlink_to(tmp_path / "z")
    (tmp_path / "b" / "link").symlink_to(tmp_path / "z")
    assert names(tmp_path) == ["b/two.wav", "z/one.wav"]


def test_folders_behind_links_are_followed_once(tmp_path):
    make(tmp_path, "disk/sub/one.wav", "disk/two.wav", "top/own.wav")
    top = tmp_path / "top"
    (top / "first").symlink_to(tmp_path / "disk")
    (top / "second").symlink_to(tmp_path / "disk")
    (top / "third").symlink_to(tmp_path / "disk" / "sub")
    assert names(top) == ["first/sub/one.wav", "first/two.wav", "own.wav"]
    (tmp_path / "alias").symlink_to(top)  # the folder itself may be a link
    assert names(tmp_path / "alias") == names(top)


def test_loops_of_links_do_no_harm(tmp_path):
    make(tmp_path, "top/own.wav", "beside/other.wav", "disk/far.wav")
    top = tmp_path / "top"
    (top / "self").symlink_to(top)
    (top / "up").symlink_to(tmp_path)  # above the folder: what lies beside it stays outside
    (top / "disk").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(top)
    (top / "ouroboros").symlink_to(top / "ouroboros")
    assert names(top) == ["disk/far.wav", "own.wav"]


def test_links_that_lead_nowhere_are_not_skipped_silently(tmp_path):
    make(tmp_path, "good.wav")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "unmounted.wav")
    os.mkfifo(tmp_path / "pipe.wav")  # reading it would wait for ever
    assert names(tmp_path) == ["gone.wav", "good.wav"]


def test_other_endings(tmp_path):
    make(tmp_path, "a.tsv", "sub/b.tsv", "c.wav")
    assert [path.name for path in beneath(tmp_path, (".tsv",))] == ["a.tsv", "b.tsv"]


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(
        UserError, match=r"cannot read the folder .*nowhere: expected a file or folder, got a path that does not exist"
    ):
        beneath(tmp_path / "nowhere")


def test_inference_fine_tuning_packing_and_impulse_responses_find_the_same_files(tmp_path, monkeypatch):
    top = tmp_path / "top"
    every = [f"sub/clip{i}{ending}" for i, ending in enumerate(sorted(AUDIO_ENDINGS))]
    make(top, "own.wav", ".hidden/h.wav", *every)
    make(tmp_path, "disk/far.wav")
    (top / "disk").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(top)
    expected = sorted(["own.wav", "disk/far.wav", *every])
    assert sorted(audio.name for audio in find_audio([str(top)])) == expected
    assert sorted(path for paths in pack.find_audio(top).values() for path in paths) == expected
    assert sorted(own_data._below(path, top) for path in own_data._find_audio(top)) == expected
    read: list[Path] = []

    def stand_in(file: Path, rate: int) -> np.ndarray:
        read.append(file)
        return np.ones(4, np.float32)

    monkeypatch.setattr("helpers.augment.impulse._read_response", stand_in)
    load_impulse_responses(top)
    assert sorted(os.path.relpath(path, top) for path in read) == expected


def test_packing_prefers_what_needs_no_ffmpeg(tmp_path):
    make(tmp_path, "a/clip.m4a", "b/clip.wav", "c/clip.flac")
    assert pack.find_audio(tmp_path) == {"clip": ["b/clip.wav", "c/clip.flac", "a/clip.m4a"]}
