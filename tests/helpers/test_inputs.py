"""Which files words on the command line mean, and that no two of them share a name for their results."""

from __future__ import annotations

from pathlib import Path

import pytest

from errors import UserError
from helpers.inputs import find_audio


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    for name in (
        "a.wav",
        "b.mp3",
        "sub/a.WAV",
        "sub/deep/c.flac",
        "notes.txt",
        ".hidden/x.wav",
        "sub/._a.wav",
        "odd [1].ogg",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*words, list_file=None):
    return {i.path: i.stem for i in find_audio(words, list_file)}


def test_a_folder_with_everything_beneath(tree):
    assert found(str(tree)) == {
        str(tree / "a.wav"): "a",
        str(tree / "b.mp3"): "b",
        str(tree / "odd [1].ogg"): "odd [1]",
        str(tree / "sub/a.WAV"): "sub/a",
        str(tree / "sub/deep/c.flac"): "sub/deep/c",
    }


def test_patterns_files_and_standard_input(tree):
    assert set(found("*.wav", "**/c.*")) == {"a.wav", "sub/deep/c.flac"}
    assert set(found("odd [1].ogg")) == {"odd [1].ogg"}  # a file that looks like a pattern
    assert found("notes.txt", "-", "missing.wav") == {"notes.txt": "notes", "-": "stdin", "missing.wav": "missing"}
    assert found("a.wav", "a.wav") == {"a.wav": "a"}


def test_names_of_results_are_unique(tree):
    (tree / "a.mp3").touch()
    assert found("a.wav", "a.mp3") == {"a.wav": "a.wav", "a.mp3": "a.mp3"}
    assert found("a.wav", "sub/a.WAV", "sub") == {
        "a.wav": "a.wav",
        "sub/a.WAV": "a.WAV",
        "sub/deep/c.flac": "deep/c",
    }
    (tree / "a.wav.mp3").touch()
    assert found("a.wav", "a.mp3", "a.wav.mp3") == {"a.wav": "a.wav", "a.mp3": "a.mp3", "a.wav.mp3": "a.wav-2"}


def names(*words, list_file=None):
    return {i.path: i.name for i in find_audio(words, list_file)}


def test_the_name_of_audio_is_its_path_below_what_was_named(tree):
    assert names("sub", "a.wav") == {"sub/a.WAV": "a.WAV", "sub/deep/c.flac": "deep/c.flac", "a.wav": "a.wav"}
    assert names("sub/*/*.flac", "-") == {"sub/deep/c.flac": "deep/c.flac", "-": "stdin"}
    assert names("**/*.flac") == {"sub/deep/c.flac": "sub/deep/c.flac"}
    assert names(str(tree / "sub/deep/c.flac")) == {str(tree / "sub/deep/c.flac"): "c.flac"}


def test_names_that_would_be_the_same_begin_at_the_folder_of_all(tree):
    for name in ("day1/x.wav", "day1/only.wav", "day2/x.wav"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    paths = ["day1/only.wav", "day1/x.wav", "day2/x.wav"]
    assert names("day1", "day2") == dict(zip(paths, paths, strict=True))
    assert list(found("day1", "day2").values()) == ["day1/only", "day1/x", "day2/x"]
    (tree / "list.txt").write_text("day2/x.wav\nday1/x.wav\n-\n")
    assert list(names(list_file="list.txt").values()) == ["day2/x.wav", "day1/x.wav", "stdin"]
    (tree / "list.txt").write_text("a.wav\nday1/only.wav\n")
    assert list(names(list_file="list.txt").values()) == ["a.wav", "only.wav"]


def test_a_file_that_is_named_twice_is_one(tree):
    assert names("a.wav", "./a.wav", "sub/../a.wav", str(tree / "a.wav")) == {"a.wav": "a.wav"}


def test_a_list_of_files(tree):
    (tree / "list.txt").write_text("# mine\n\na.wav\n sub \n")
    assert set(found(list_file="list.txt")) == {"a.wav", "sub/a.WAV", "sub/deep/c.flac"}


def test_a_name_that_begins_with_a_hash_is_no_comment(tree):
    for name in ("#1.wav", "# 2.wav", "#day/a.wav", " blank.wav"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    (tree / "list.txt").write_text(
        "# mine\n#1.wav\n#gone.wav\n# 2.wav\n  # indented\n#da*/*.wav\n blank.wav\na.wav\r\n"
    )
    assert list(names(list_file="list.txt")) == ["#1.wav", "# 2.wav", "#day/a.wav", " blank.wav", "a.wav"]


@pytest.mark.parametrize(("words", "message"), [(["empty"], "folder 'empty'"), (["*.xyz"], "pattern")])
def test_nothing_there(tree, words, message):
    (tree / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        find_audio(words)


def test_bad_lists(tree):
    for content in (None, "# nothing\n"):
        if content:
            (tree / "list.txt").write_text(content)
        with pytest.raises(UserError, match=r"--audio_list.* list\.txt"):
            find_audio([], "list.txt")
