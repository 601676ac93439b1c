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
    (tree / "other").mkdir()
    (tree / "other/a.wav").touch()
    assert list(found("a.wav", "other").values()) == ["a.wav", "a.wav-2"]


def test_a_list_of_files(tree):
    (tree / "list.txt").write_text("# mine\n\na.wav\n sub \n")
    assert set(found(list_file="list.txt")) == {"a.wav", "sub/a.WAV", "sub/deep/c.flac"}


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
