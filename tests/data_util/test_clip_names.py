"""Which clip a name means: nearest first, never one of several, and no clip for two names."""

from __future__ import annotations

import unicodedata

import pytest

from data_util.clip_names import ClipNames, clip_ids, fullest_names, segment_clip
from errors import UserError


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("a/x.wav", "a/x.wav"),
        ("b/x.wav", "b/x.wav"),
        ("b/x", "b/x.wav"),
        (" b\\x.WAV ", "b/x.wav"),
        ("./b//x.wav", "b/x.wav"),
        ("corpus/b/x.flac", "b/x.wav"),  # folders and an ending that the clips do not have
        ("y", "deep/er/y.mp3"),  # a bare name that only one clip has
        ("er/y.wav", "deep/er/y.mp3"),
        ("z.wav", "z.wav"),  # the path itself goes before a longer one
        ("other/y.mp3", None),
        ("c/x.wav", None),
        ("xx", None),
    ],
)
def test_the_clip_that_a_name_means(name, clip):
    clips = ClipNames(["a/x.wav", "b/x.wav", "deep/er/y.mp3", "z.wav", "a/z.wav"])
    assert clips.find(name, "table") == clip


@pytest.mark.parametrize("name", ["x.wav", "x", "x.flac"])
def test_a_name_that_several_clips_have_is_refused_with_the_candidates(name):
    clips = ClipNames(["a/x.wav", "b/x.wav", "y.wav"])
    with pytest.raises(UserError, match=rf"^t.tsv, line 3: file '{name}' may be 'a/x.wav' or 'b/x.wav'; give its path"):
        clips.find(name, "t.tsv, line 3")


def test_the_place_of_the_files_tells_more_folders(tmp_path):
    clips = ClipNames({"x.wav": tmp_path / "calls/day1/x.wav"})
    assert clips.find("day1/x.wav", "t") == "x.wav" and clips.find(f"{tmp_path}/calls/day1/x.wav", "t") == "x.wav"
    assert clips.match(["day2/x.wav", "day1/x.wav"], "t") == {"day1/x.wav": "x.wav"}


def test_endings_tell_clips_apart_where_they_must():
    clips = ClipNames(["x.wav", "x.mp3"])
    assert (clips.find("x.wav", "t"), clips.find("x.MP3", "t")) == ("x.wav", "x.mp3")
    with pytest.raises(UserError, match=r"'x' may be 'x.wav' or 'x.mp3'"):
        clips.find("x", "t")
    assert clip_ids(["a.b.wav", "sub/x.wav", "sub/x.mp3", "y", "y.wav", "\\z.flac"]) == {
        "a.b.wav": "a.b",
        "sub/x.wav": "sub/x.wav",
        "sub/x.mp3": "sub/x.mp3",
        "y": "y",
        "y.wav": "y",
        "\\z.flac": "z",
    }
    assert fullest_names(["y", "y.wav", "sub/x", "sub/x.wav", "sub/x.mp3", "z"]) == {
        "y": "y.wav",
        "y.wav": "y.wav",
        "sub/x": "sub/x",
        "sub/x.wav": "sub/x.wav",
        "sub/x.mp3": "sub/x.mp3",
        "z": "z",
    }


VIDEO = "b0RFKhbpFJA"


@pytest.mark.parametrize("clip", [VIDEO, f"Y{VIDEO}", f"{VIDEO}_30000", f"Y{VIDEO}_30000", f"eval/Y{VIDEO}.mp3"])
@pytest.mark.parametrize("name", [VIDEO, f"Y{VIDEO}", f"{VIDEO}_30000", f"Y{VIDEO}_30000.wav"])
def test_spellings_of_audioset(clip, name):
    clips = ClipNames([clip, "b0RFKhbpFJB", "Yother"])
    assert clips.find(name, "t") == clip
    assert clips.find("other", "t") == "Yother" and clips.find(f"X{VIDEO}", "t") is None


def test_other_segments_of_a_video_and_takes_of_a_recording_are_other_clips():
    clips = ClipNames([f"{VIDEO}_30000", "rec_1", "recording01_2"])
    assert clips.find(f"{VIDEO}_60000", "t") is None
    assert clips.find("rec_2", "t") is None and clips.find("recording01_3", "t") is None


def test_a_clip_goes_to_the_nearest_name_and_never_to_two():
    clips = ClipNames(["x", "sub/y"])
    assert clips.match(["corpus/x.wav", "x.wav", "sub/y.wav", "y.wav"], "t") == {"x.wav": "x", "sub/y.wav": "sub/y"}
    with pytest.raises(UserError, match=r"^truth: clip 'x' may be 'p/x.wav' or 'q/x.wav'"):
        clips.match(["p/x.wav", "q/x.wav"], "truth")


def test_strict_names_are_ends_of_paths():
    clips = ClipNames(["a/x.wav", f"Y{VIDEO}.wav"], strict=True)
    assert clips.find("x", "t") == clips.find("a/x", "t") == "a/x.wav"
    for name in ("corpus/a/x.wav", "x.mp3", VIDEO):
        assert clips.find(name, "t") is None


def test_both_forms_of_accented_letters_are_one_name():
    composed, apart = (unicodedata.normalize(form, "Käuzchen.wav") for form in ("NFC", "NFD"))
    assert composed != apart and ClipNames([apart]).find(composed, "t") == apart


@pytest.mark.parametrize(
    ("segment_id", "clip", "start_ms"),
    [
        ("b0RFKhbpFJA_30000", "Yb0RFKhbpFJA", 30_000),
        (" Yb0RFKhbpFJA_0 ", "Yb0RFKhbpFJA", 0),
        ("_a_b_c_d_e__120000", "Y_a_b_c_d_e_", 120_000),
        ("b0RFKhbpFJA", "Yb0RFKhbpFJA", None),
        ("Yb0RFKhbpFJA", "Yb0RFKhbpFJA", None),
        ("rec_1000", "Yrec_1000", None),
        ("SITE_20240512_060000", "YSITE_20240512_060000", None),
        ("ABC20240512_060000", "YABC20240512_060000", None),  # 11 characters, but times have no leading zeros
        ("b0RFKhbpFJA_30000.wav", "Yb0RFKhbpFJA_30000", None),  # a file
        ("site 1\\r\u00e9c.WAV", "Ysite 1__r\u00e9c", None),
        ("b0RFKhbpFJA_99999999999999999999", "Yb0RFKhbpFJA_99999999999999999999", None),
    ],
)
def test_segments_of_audioset_and_other_ids(segment_id: str, clip: str, start_ms: int | None) -> None:
    assert segment_clip(segment_id) == (clip, start_ms)
