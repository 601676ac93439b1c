"""A validation leaves a table per class and a picture, in the folder and at the tracker."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import wandb
from matplotlib.image import imread
from pytorch_lightning.loggers import WandbLogger

import ex_audioset_strong

SHORT = ["--model_name=fmn04", "--pretrained=scratch", "--evaluate", "--num_workers=0", "--accelerator=cpu"]


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard"])
def test_table_and_picture_of_a_validation(
    tracker: str, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, object] = {}
    monkeypatch.setattr(WandbLogger, "log_image", lambda self, key, images, **k: sent.update({key: images}))
    monkeypatch.setattr(WandbLogger, "log_table", lambda self, key, columns, data: sent.update({key: data}))
    argv = [f"--data_dir={tiny_dir}", f"--output_dir={tmp_path}", "--experiment_name=run", f"--logger={tracker}"]
    ex_audioset_strong.main([*argv, *SHORT])
    wandb.finish()

    folder = tmp_path / "run"
    with (folder / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and {row["figure"] for row in rows} == {"psds1_per_class"}
    picture = imread(folder / "detections.png")
    assert picture.std() > 0.05
    if tracker == "wandb":
        assert sent["val/detections"] == [str(folder / "detections.png")]
        assert len(sent["val/psds1_per_class"]) == len(rows)  # type: ignore[arg-type]
        assert any((folder / "wandb").iterdir())
    else:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(next(folder.rglob("events.out.*")).parent)).Reload()
        assert events.Tags()["images"] == ["val/detections"]
