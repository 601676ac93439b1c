"""Frame logits of a file beside the samples; clips that it does not know give way to others of their part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from torch.utils.data import Dataset

from data_util.teacher_store import WithTeacherFrames
from errors import UserError


class Store:
    """Knows clips 0, 2, 4 and 5; the logits of a clip are its number."""

    rows: ClassVar[dict[str, int]] = {"Y0": 0, "Y2": 2, "Y4": 4, "Y5": 5}

    def __len__(self) -> int:
        return 4

    def rows_of(self, clip_ids: Sequence[str]) -> np.ndarray:
        return np.array([self.rows.get(c, -1) for c in clip_ids])

    def read(self, row: int) -> np.ndarray:
        return np.full((2, 3), row, np.float16)


class Clips(Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"clip_id": "Y1" if index == 4 else f"Y{index}"}  # clip 4 is corrupt: the unknown 1 stands in


def test_every_sample_brings_the_logits_of_its_own_clip() -> None:
    names = [f"Y{i}" for i in range(6)]
    clips = WithTeacherFrames(Clips(), Store(), [names[:3], names[3:]])
    assert clips.unknown == 2
    found = [clips[i] for i in range(6)]
    assert [s["clip_id"] for s in found] == ["Y0", "Y2", "Y2", "Y5", "Y5", "Y5"]
    assert all(float(s["teacher_logits"][0, 0]) == int(s["clip_id"][1:]) for s in found)


def test_a_part_without_any_known_clip_is_refused() -> None:
    with pytest.raises(UserError, match="knows none of 2 clips"):
        WithTeacherFrames(Clips(), Store(), [["Y0"], ["Y7", "Y8"]])


class Damaged(Store):
    """As `Store`, but the logits of clip 4 are no numbers and those of clip 0 cannot be unpacked."""

    def __len__(self) -> int:
        return 6

    def read(self, row: int) -> np.ndarray:
        if row == 0:
            raise ValueError("damaged logits")
        return np.full((2, 3), np.nan if row == 4 else row, np.float16)


class Quiet(Clips):
    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"clip_id": f"Y{index}"}

    def new_corrupt_report(self) -> str | None:
        return None


def test_damaged_logits_give_way_to_others_and_are_listed_once() -> None:
    names = [f"Y{i}" for i in range(6)]
    clips = WithTeacherFrames(Quiet(), Damaged(), [names[:3], names[3:]])
    assert clips.new_corrupt_report() is None
    for _ in range(2):
        assert [clips[i]["clip_id"] for i in range(6)] == ["Y2", "Y2", "Y2", "Y5", "Y5", "Y5"]
    report = clips.new_corrupt_report()
    assert report is not None and "2 clips have damaged teacher logits" in report and report.endswith("Y0, Y4")
    assert clips.new_corrupt_report() is None
