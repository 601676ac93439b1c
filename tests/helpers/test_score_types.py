"""Score files with entries of wrong types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from errors import UserError
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
