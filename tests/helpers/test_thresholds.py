"""Thresholds per class from the command line, a table and a dictionary."""

from __future__ import annotations

import numpy as np
import pytest

from errors import UserError
from helpers.audio_reader import Audio
from helpers.detector import Detector
from helpers.thresholds import parse_thresholds, read_thresholds
from tests.tone_model import ToneModel, tones

EVENTS = [(1.0, 2.0, "Sine wave"), (4.0, 6.0, "Siren"), (7.0, 8.0, "Beep, bleep")]


def labels(detector: Detector) -> set[str]:
    detection = detector.detect(Audio(tones(10, EVENTS)))
    assert len(detection.tables) == 1
    return {event.label for event in detection.events}


def thresholds(detector: Detector) -> dict[str, float]:
    ((_, values),) = detector.decoding.thresholds.items()
    return {about.label: round(float(value), 4) for about, value in zip(detector.classes, values, strict=True)}


def test_words_of_a_command_line():
    assert parse_thresholds(["0.5", "Dog=0.3", "0.2", "a=b=1", "0.5"]) == ([0.2, 0.5], {"Dog": 0.3, "a=b": 1.0})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Dog=1.5"], "detection_thresholds is Dog=1.5: expected numbers between 0 and 1, or CLASS=NUMBER"),
        (["=0.5"], "detection_thresholds is =0.5"),
        (["Dog="], "detection_thresholds is Dog="),
        (["Dog=nan"], "detection_thresholds is Dog=nan"),
        (["Dog=0.1", "Dog=0.2"], "'Dog' already has 0.1"),
        (["Beep,", "bleep=0.7"], "detection_thresholds is Beep,: .*a name with blanks needs quotes"),
        ([], "detection_thresholds is empty"),
    ],
)
def test_words_that_are_no_thresholds(words, message):
    with pytest.raises(UserError, match=message):
        parse_thresholds(words)


def test_a_class_of_its_own_threshold():
    assert labels(Detector(ToneModel(), detection_thresholds=[0.5])) == {"Sine wave", "Siren", "Beep, bleep"}
    detector = Detector(ToneModel(), detection_thresholds=["0.5", "siren=1"])
    assert labels(detector) == {"Sine wave", "Beep, bleep"}
    assert thresholds(detector) == {"Sine wave": 0.5, "Beep, bleep": 0.5, "Siren": 1.0, "Dial tone": 0.5}
    by_mid = Detector(ToneModel(), thresholds={"/m/01v_m0": 1}, detection_thresholds=[0.4])  # the sine wave
    assert labels(by_mid) == {"Siren", "Beep, bleep"}
    assert thresholds(by_mid) == {"Sine wave": 1.0, "Beep, bleep": 0.4, "Siren": 0.4, "Dial tone": 0.4}
    assert thresholds(Detector(ToneModel(), thresholds={"Siren": 0.3}, include=["Siren"])) == {"Siren": 0.3}


def test_the_other_classes_keep_the_checkpoints_own():
    model = ToneModel()
    model.tuning = {"class_thresholds": [0.1, 0.2, 0.3, 0.4]}
    own = thresholds(Detector(model))
    changed = thresholds(Detector(model, thresholds={"Siren": 0.9}))
    assert changed == {**own, "Siren": 0.9} and set(own.values()) == {0.1, 0.2, 0.3, 0.4}
    assert thresholds(Detector(model, thresholds={"Siren": 0.9}, detection_thresholds=[0.6])) == {
        **dict.fromkeys(own, 0.6),
        "Siren": 0.9,
    }


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_and_on_top_of_it_the_command_line(tmp_path, separator):
    table = tmp_path / "thresholds.csv"
    rows = ["Label,threshold,note", '"Beep, bleep",0.25,', "", "Siren,0.75,loud"]
    beep = '"Beep, bleep"'
    lines = [row.replace(beep, "@").replace(",", separator).replace("@", beep) for row in rows]
    table.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    assert read_thresholds(table) == {"Beep, bleep": 0.25, "Siren": 0.75}
    detector = Detector(ToneModel(), thresholds=table, detection_thresholds=["Siren=0.6"])
    assert thresholds(detector) == {"Sine wave": 0.5, "Beep, bleep": 0.25, "Siren": 0.6, "Dial tone": 0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the columns label and threshold, got nothing"),
        ("class,value\nSiren,0.5\n", "expected the columns label and threshold, got class, value"),
        ("label,threshold\nSiren,loud\n", "line 2: expected a class and a number between 0 and 1, got 'Siren' and 'lo"),
        ("label,threshold\nSiren\n", "line 2: .* got 'Siren' and ''"),
        ("label,threshold\nSiren,inf\n", "line 2"),
        ("label,threshold\nSiren,0.1\nSiren,0.2\n", "line 3: 'Siren' already has 0.1"),
        ("label,threshold\nSirene,0.1\n", "threshold of 'Sirene': the model has no such class; did you mean Siren?"),
        ("label,threshold\nSirene,0.1\n", "--thresholds .*thresholds.csv: threshold of 'Sirene'"),
        ("label,threshold\n", "expected a class and its threshold beneath the header, got none"),
        (
            "label,threshold\nBeep, bleep,0.7\n",
            "line 2: expected at most 2 cells .* got 3; a label that holds ',' needs",
        ),
        ("label,threshold\nSiren,0,7\n", "line 2: expected at most 2 cells"),
        (
            "label;threshold\nSiren;0.5,1\n",
            "line 2: expected a class and a number between 0 and 1, got 'Siren' and '0.5,1",
        ),
        ("label,threshold\nSiren,0.1\nsiren,0.2\n", "'siren' is 0.2: that is the same class as 'Siren', which has 0.1"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, message):
    table = tmp_path / "thresholds.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=message):
        Detector(ToneModel(), thresholds=table)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_where_no_comma_separates(tmp_path, separator):
    table = tmp_path / "thresholds.csv"
    table.write_text(f"label{separator}threshold\nSiren{separator}0,75\nBeep, bleep{separator}0.5\n")
    assert read_thresholds(table) == {"Siren": 0.75, "Beep, bleep": 0.5}


def test_a_class_has_one_threshold_per_source():
    mid = next(about.mid for about in Detector(ToneModel()).classes if about.label == "Siren")
    message = f"threshold of '{mid}' is 0.4: that is the same class as 'Siren', which has 0.3; give each class once"
    with pytest.raises(UserError, match=message):
        Detector(ToneModel(), thresholds={"Siren": 0.3, mid: 0.4})
    with pytest.raises(UserError, match=r"'siren' is 0\.4: that is the same class as 'Siren'"):
        Detector(ToneModel(), detection_thresholds=["Siren=0.3", "siren=0.4"])
    assert thresholds(Detector(ToneModel(), thresholds={"Siren": 0.3, mid: 0.3}))["Siren"] == 0.3
    over = Detector(ToneModel(), thresholds={"Siren": 0.3}, detection_thresholds=[f"{mid}=0.4"])
    assert thresholds(over)["Siren"] == 0.4


def test_what_is_refused_in_python():
    for options, message in [
        ({"thresholds": {"Sirren": 0.5}}, "'Sirren': the model has no such class; did you mean Siren"),
        ({"thresholds": {"Siren": float("nan")}}, "'Siren' is nan: expected a number between 0 and 1"),
        ({"thresholds": {"Siren": 0.5}, "detection_thresholds": [0.1, 0.2]}, "0.1 0.2: .*give one number"),
        ({"detection_thresholds": [0.1, 0.2, "Siren=0.5"]}, "0.1 0.2: .*give one number"),
        ({"thresholds": ["Siren"]}, r"thresholds is \['Siren'\]: expected a dictionary such as"),
        ({"thresholds": {"Siren": 3}}, "threshold of 'Siren' is 3: expected"),
        ({"thresholds": "missing.csv"}, "cannot read the thresholds missing.csv"),
    ]:
        with pytest.raises(UserError, match=message):
            Detector(ToneModel(), **options)


def test_a_stream_uses_them():
    audio = tones(10, EVENTS)
    stream = Detector(ToneModel(), thresholds={"Siren": 1.0}).stream()
    events = [*stream.push(audio), *stream.finish()]
    assert {event.label for event in events} == {"Sine wave", "Beep, bleep"}
    np.testing.assert_allclose(sorted({event.onset for event in events}), [1, 7], atol=0.041)
