"""Score files with entries and attributes of wrong types, or of values that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_util.pseudo_labels import CompactPseudoLabels
from errors import UserError
from helpers import psds_command
from helpers.psds_scores import ScoreWriter, open_scores


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scores", np.array([[["a"]]], "S1")),
        ("filenames", np.zeros(1)),
        ("filenames", np.array([[b"a"]])),
        ("labels", np.zeros(2)),
        ("n_frames", np.array([b"x"])),
        ("n_frames", np.zeros((1, 1))),
        ("n_frames", np.array([5.0])),
        ("n_frames", np.array([0])),
        ("n_frames", np.array([-1])),
        ("n_frames", np.array([6])),
        ("n_frames", np.array([2**64 - 1], np.uint64)),
        ("scores", np.zeros((1, 2, 0))),
    ],
)
def test_wrong_types_are_one_line(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "scores.h5"
    with ScoreWriter(path, ["a", "b"]) as writer:
        writer.add(["clip"], np.zeros((1, 2, 5)))
    assert open_scores(path).clip_ids == ["clip"]
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = value
    with pytest.raises(UserError, match=f"scores.h5: .*{name}"):
        open_scores(path)


RATES = {
    "text": "fast",
    "text of a number": "25",
    "bytes": np.bytes_(b"x"),
    "none": h5py.Empty("f"),
    "two": np.array([25.0, 50.0]),
    "many": np.arange(5000),
    "truth": True,
    "complex": 25 + 1j,
    "compound": np.array((1, 2.0), [("a", "i4"), ("b", "f8")]),
    "a reference": None,
    **{str(rate): rate for rate in (np.nan, np.inf, -np.inf, -25.0, 0, 1e-300, 1e300, 2**63)},
}


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    with ScoreWriter(tmp_path / "scores.h5", ["a", "b"]) as writer:
        writer.add(["clip"], np.random.default_rng(0).random((1, 2, 250)))
    return tmp_path / "scores.h5"


def set_rate(path: Path, rate: Any) -> None:
    with h5py.File(path, "r+") as file:
        del file.attrs["frame_rate"]
        if rate is None:
            file.attrs.create("frame_rate", file["scores"].ref, dtype=h5py.ref_dtype)
        else:
            file.attrs["frame_rate"] = rate


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
@pytest.mark.parametrize(
    "what", [["--durations", "durations.csv"], [], ["--save_tsv", "out"], ["--compare", "other.h5"]]
)
def test_a_frame_rate_that_cannot_be_is_one_line(
    scores: Path, rate: Any, what: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scores.parent)
    Path("truth.tsv").write_text("filename\tonset\toffset\tevent_label\nclip.wav\t0.5\t2\ta\n")
    Path("durations.csv").write_text("clip,10\n")
    Path("other.h5").write_bytes(scores.read_bytes())
    set_rate(Path("other.h5" if "--compare" in what else "scores.h5"), rate)
    before = sorted(scores.parent.iterdir())
    with pytest.raises(SystemExit) as stop:
        psds_command.main(["--scores", "scores.h5", "--ground_truth", "truth.tsv", *what])
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.count("\n") == 1 and len(told) < 300
    assert "attribute 'frame_rate'" in told and "expected a number of frames per second" in told
    assert sorted(scores.parent.iterdir()) == before


@pytest.mark.parametrize("rate", [0.01, 25, 25.0, 62.5, np.float32(50), np.int8(100), np.array([25.0]), 1e6])
def test_frame_rates_that_can_be_are_read(scores: Path, rate: Any) -> None:
    set_rate(scores, rate)
    assert open_scores(scores).frame_rate == float(np.asarray(rate).item())


def test_the_usual_frame_rate_where_none_is_given(scores: Path) -> None:
    with h5py.File(scores, "r+") as file:
        del file.attrs["frame_rate"]
        del file["n_frames"]
    source = open_scores(scores)
    assert source.frame_rate == 25.0 and next(source.read(["clip"])).scores.shape == (1, 2, 250)


@pytest.mark.parametrize("kind", ["external link", "external storage", "link through a link"])
def test_scores_of_another_file_are_refused(scores: Path, kind: str) -> None:
    other = scores.with_name("other.h5")
    with h5py.File(other, "w") as file:
        file["scores"] = np.zeros((1, 2, 250))
    with h5py.File(scores, "r+") as file:
        del file["scores"]
        if kind == "external storage":
            file.create_dataset("scores", (1, 2, 250), "f4", external=[(str(other), 0, 2000)])
        elif kind == "external link":
            file["scores"] = h5py.ExternalLink(str(other), "scores")
        else:
            file["away"] = h5py.ExternalLink(str(other), "/")
            file["scores"] = h5py.SoftLink("/away/scores")
    with pytest.raises(UserError, match=r"scores.h5: entry 'scores' takes its values from another file"):
        open_scores(scores)


@pytest.mark.parametrize("times", [("nan", "0.04"), ("inf", "inf"), ("-1", "0.04"), ("0.04", "0.04"), ("0.04", "0")])
def test_frame_times_of_tables_that_cannot_be(tmp_path: Path, times: tuple[str, str]) -> None:
    header = "onset\toffset\ta\n"
    (tmp_path / "clip.tsv").write_text(header + "0.0\t0.04\t0.5\n")
    assert next(open_scores(tmp_path).read(["clip"])).stamps.tolist() == [0.0, 0.04]  # type: ignore[union-attr]
    (tmp_path / "clip.tsv").write_text(header + "\t".join((*times, "0.5")) + "\n")
    with pytest.raises(UserError, match=r"clip.tsv: time stamps must ascend"):
        next(open_scores(tmp_path).read(["clip"]))


@pytest.mark.parametrize("shape", ["text", 250, np.zeros((2, 2), int), np.array([447.0, 250.0]), h5py.Empty("f"), True])
def test_odd_shapes_of_packed_logits_are_one_line(tmp_path: Path, shape: Any) -> None:
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["filenames"] = np.array([b"a"])
        packed = file.create_dataset("packed_logits", (1,), h5py.vlen_dtype(np.uint8))
        packed.attrs["shape"] = (447, 250)
    assert CompactPseudoLabels(tmp_path / "p.h5").shape == (447, 250)
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        file["packed_logits"].attrs["shape"] = shape
    with pytest.raises(UserError, match=r"p.h5: entry 'packed_logits' holds clips of shape \[\]"):
        CompactPseudoLabels(tmp_path / "p.h5")
