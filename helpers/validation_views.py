"""What a validation can be looked at with: a table of the figures per class, and a spectrogram with detections."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from helpers.cells import safe_cells
from helpers.classes import class_names
from helpers.events import decode_events
from helpers.outputs import TrueEvents
from helpers.plots import log_mel, plot_events
from helpers.postprocess import median_filter
from helpers.run_folder import write_text
from helpers.trackers import Unfailing

log = logging.getLogger("efficientsed")

TABLE_FILE, PICTURE_FILE = "per_class.csv", "detections.png"
THRESHOLDS = (0.2, 0.5)
SAMPLE_RATE = 16_000


class ShowValidation(pl.Callback):
    """After each validation writes the table and the picture to the run's folder and to the tracker.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.picture: Path | None = None

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx > 0 or "strong" not in batch or not trainer.is_global_zero:
            return
        shown = (batch["valid"] & batch["strong"].flatten(1).any(1)).nonzero().flatten().tolist()
        if shown:  # drawn here, where averaged weights are in place
            try:
                self.picture = self._draw(pl_module, batch["audio"][shown[0]], batch["clip_id"][shown[0]])
            except OSError as error:
                log.warning("no picture of the detections: %s", error)

    def _draw(self, module: Any, audio: Any, clip_id: str) -> Path:
        model, duration = module.model, module.durations.get(clip_id, len(audio) / SAMPLE_RATE)
        logits = model(model.mel_forward(audio[None]))[0].float()
        scores = median_filter(logits, module.options.median_window)[0].sigmoid().cpu().numpy()
        names = class_names(model.labels)
        tables = [(f"score above {t:g}", decode_events(scores, names, t, duration=duration)) for t in THRESHOLDS]
        onset, offset, label = zip(*module.ground_truth[clip_id], strict=True)
        sound = audio.float().cpu().numpy()[: round(duration * SAMPLE_RATE)]
        path = self.folder / PICTURE_FILE
        true = TrueEvents(list(onset), list(offset), list(label))
        plot_events(
            path, log_mel([sound], duration), duration, tables, true, f"{clip_id}, epoch {module.current_epoch}"
        )
        return path

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        per_class: Mapping[str, Mapping[str, float]] = pl_module.per_class  # type: ignore[assignment]
        rows = [[figure, name, value] for figure, values in per_class.items() for name, value in values.items()]
        text = io.StringIO(newline="")
        csv.writer(text).writerows([["figure", "class", "value"], *map(safe_cells, rows)])
        write_text(self.folder / TABLE_FILE, text.getvalue())
        for logger in trainer.loggers:
            if isinstance(logger, Unfailing):
                logger.attempt(partial(self._send, logger.logger, per_class, trainer.global_step))

    def _send(self, tracker: Any, per_class: Mapping[str, Mapping[str, float]], step: int) -> None:
        if isinstance(tracker, WandbLogger):
            for figure, values in per_class.items():
                tracker.log_table(f"val/{figure}", columns=["class", "value"], data=[list(v) for v in values.items()])
            if self.picture:
                tracker.log_image("val/detections", [str(self.picture)])
        if isinstance(tracker, TensorBoardLogger) and self.picture:
            from matplotlib.image import imread

            tracker.experiment.add_image("val/detections", imread(self.picture)[..., :3], step, dataformats="HWC")
