"""True events in every format that fine-tuning reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from errors import UserError
from helpers.annotations import read_annotations

RAVEN = "Selection\tBegin Time (s)\tEnd Time (s)\tBegin File\tFile Offset (s)\tAnnotation\n"
TEXTGRID = (
    'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n6\n<exists>\n1\n"IntervalTier"\n"x"\n0\n6\n1\n'
    '1\n2\n"Dog"\n'
)
ELAN = (
    '<?xml version="1.0"?><ANNOTATION_DOCUMENT><TIME_ORDER><TIME_SLOT TIME_SLOT_ID="a" TIME_VALUE="1000"/>'
    '<TIME_SLOT TIME_SLOT_ID="b" TIME_VALUE="2000"/></TIME_ORDER><TIER TIER_ID="x"><ANNOTATION><ALIGNABLE_ANNOTATION '
    'ANNOTATION_ID="1" TIME_SLOT_REF1="a" TIME_SLOT_REF2="b"><ANNOTATION_VALUE>Dog</ANNOTATION_VALUE>'
    "</ALIGNABLE_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>"
)
REGION = {"start": 1.0, "end": 2.0, "labels": ["Dog"]}
FILES = {
    "rec.tsv": "filename\tonset\toffset\tevent_label\nrec.wav\t1\t2\tDog\n",
    "rec.csv": "filename,onset,offset,label\nrec.wav,1,2,Dog\n",
    "plain.csv": "onset,offset,label\n1,2,Dog\n",
    "german.csv": "onset;offset;label\n1,0;2,0;Dog\n",
    "rec.txt": "1.0\t2.0\tDog\n",
    "rec.selections.txt": RAVEN + "1\t601.0\t602.0\tD:\\field\\rec.wav\t1.0\tDog\n",
    "rec.TextGrid": TEXTGRID,
    "rec.eaf": ELAN,
    "export.json": json.dumps([{"audio": "/data/upload/3/0a1b2c3d-rec.wav", "id": 1, "label": [REGION]}]),
    "birdnet.csv": "Start (s),End (s),Scientific name,Common name,Confidence,File\n1.0,2.0,Canis,Dog,0.9,/x/rec.wav\n",
}
NAMELESS = {"plain.csv", "german.csv"}


def events(path: Path, *names: str) -> dict[str, list[tuple[float, float, str]]]:
    true = read_annotations(path, {name: f"/data/{name}" for name in names})
    return {name: list(zip(one.onset, one.offset, one.label, strict=True)) for name, one in true.items()}


@pytest.mark.parametrize("name", FILES)
def test_every_format(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    path.write_text(FILES[name], encoding="utf-8")
    assert events(path, "rec.wav") == {"rec.wav": [(1.0, 2.0, "Dog")]}
    if name in NAMELESS:
        with pytest.raises(UserError, match="no column filename"):
            events(path, "rec.wav", "other.wav")
    else:
        assert events(path, "other.wav", "rec.wav") == {"rec.wav": [(1.0, 2.0, "Dog")]}
    path.write_text(FILES[name].replace("Dog", "Cat"), encoding="utf-8")
    assert events(path, "rec.wav") == {"rec.wav": [(1.0, 2.0, "Cat")]}


def test_files_that_name_no_recording_are_about_the_only_one(tmp_path: Path) -> None:
    for name in ("rec.txt", "rec.TextGrid", "rec.eaf"):
        path = tmp_path / f"my {name}"
        path.write_text(FILES[name])
        assert events(path, "day1/other.wav") == {"day1/other.wav": [(1.0, 2.0, "Dog")]}
        assert events(path, "other.wav", "b.wav") == {}


def test_a_table_of_other_recordings_is_about_none_of_this_audio(tmp_path: Path) -> None:
    for name in ("rec.csv", "rec.selections.txt", "export.json"):
        (tmp_path / name).write_text(FILES[name])
        assert events(tmp_path / name, "other.wav") == {}


def test_what_is_no_annotation_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="has no column filename, onset, offset, label"):
        events(tmp_path / "t.csv", "rec.wav")
    (tmp_path / "t.txt").write_text("1\tx\tDog\n2\t1\tDog\n")
    with pytest.raises(UserError):
        events(tmp_path / "t.txt", "rec.wav")
    with pytest.raises(UserError, match=r"cannot read the true events .*does not exist"):
        events(tmp_path / "none.csv", "rec.wav")
