"""Teacher logits of whole data sets: an ensemble's mean, batch by batch into parts, parts into one HDF5 file.

The clips are cut into fixed batches in the order of the data set. A batch is the unit of work: one process computes it
and writes it as one file, under its final name only when it is whole. So a killed run goes on where it was, the
number of processes may change in between, and the contents do not depend on either.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from atomic import replacing
from data_util.pseudo_labels import DENSE
from data_util.samplers import rank_and_world
from errors import UserError
from models.sed_model import SEDModel

CLIPS_PER_CHUNK = 1  # of the HDF5 file: training reads clips one by one


class PartFolder:
    """The finished batches of a run, one `.npz` each, beside the file that they become.

    Args:
        out: the final file.
        request: what determines the contents; parts of another request are refused.
    """

    def __init__(self, out: Path, request: str) -> None:
        self.out = out
        self.folder = out.with_name(f".{out.name}.parts")
        self.request = request

    def prepare(self) -> None:
        """Make the folder, or recognise that of an earlier run; raises UserError if it was another request."""
        note = self.folder / "request.txt"
        if note.is_file() and note.read_text(encoding="utf-8") != self.request:
            raise UserError(
                f"{self.folder} holds the parts of another run (other models, data or batch size): finish that one, "
                "or remove the folder"
            )
        with replacing(note) as part:
            part.write_text(self.request, encoding="utf-8")

    def path(self, batch: int) -> Path:
        """File of a batch."""
        return self.folder / f"{batch:07d}.npz"

    def missing(self, n_batches: int) -> list[int]:
        """Numbers of the batches that are still to be computed."""
        done = {int(path.stem) for path in self.folder.glob("*.npz") if path.stem.isdigit()}
        return [batch for batch in range(n_batches) if batch not in done]

    def write(self, batch: int, clip_ids: Sequence[str], logits: np.ndarray) -> None:
        """Write a batch: names, and float16 [B, C, T]."""
        path = self.path(batch)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        with part.open("wb") as file:
            np.savez(file, clip_ids=np.array(clip_ids, np.bytes_), logits=logits)
        part.replace(path)

    def merge(self, n_batches: int) -> int:
        """Put all batches into the final file, in order, and remove the parts; returns the number of clips."""
        with replacing(self.out) as part, h5py.File(part, "w") as file:
            names: list[bytes] = []
            logits: h5py.Dataset | None = None
            for batch in range(n_batches):
                with np.load(self.path(batch)) as content:
                    values = content["logits"]
                    names += content["clip_ids"].tolist()
                if logits is None:
                    shape = values.shape[1:]
                    logits = file.create_dataset(
                        DENSE, (0, *shape), np.float16, maxshape=(None, *shape), chunks=(CLIPS_PER_CHUNK, *shape)
                    )
                logits.resize(len(names), axis=0)
                logits[len(names) - len(values) :] = values
            file["filenames"] = np.array(names, np.bytes_)
        shutil.rmtree(self.folder)
        return len(names)


class BatchesOfRank(Sampler[list[int]]):
    """The clips of the missing batches, shared out among the processes.

    Args:
        missing: numbers of the batches.
        n_clips: size of the data set.
        batch_size: clips per batch; the last one may have fewer.
    """

    def __init__(self, missing: Sequence[int], n_clips: int, batch_size: int) -> None:
        self.missing, self.n_clips, self.batch_size = list(missing), n_clips, batch_size

    def of_rank(self) -> list[int]:
        """Numbers of the batches of this process."""
        rank, world_size = rank_and_world()
        return self.missing[rank::world_size]

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.of_rank():
            yield list(range(batch * self.batch_size, min((batch + 1) * self.batch_size, self.n_clips)))

    def __len__(self) -> int:
        return len(self.of_rank())


class Ensemble(pl.LightningModule):
    """The mean of the logits of several detectors, written part by part.

    Args:
        models: detectors with the same classes and frame rate.
        parts: where the batches go.
        batch_size: clips per batch, which gives a batch its number.
    """

    def __init__(self, models: Sequence[SEDModel], parts: PartFolder, batch_size: int) -> None:
        super().__init__()
        if len({model.labels for model in models}) != 1:
            raise UserError("the models of an ensemble must have the same classes in the same order")
        self.models = nn.ModuleList(models).requires_grad_(False).eval()
        self.parts, self.batch_size = parts, batch_size

    def forward(self, audio: Tensor) -> Tensor:
        """Mean logits [B, C, T], float32, of waveforms [B, N]."""
        logits = [model(model.mel_forward(audio))[0].float() for model in self.models]  # type: ignore[operator]
        if len({x.shape for x in logits}) != 1:
            raise UserError(f"the models give different numbers of frames: {[x.shape[-1] for x in logits]}")
        return torch.stack(logits).mean(0)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Compute one batch and write it; clips that cannot be decoded are left out."""
        keep = batch["valid"].nonzero().flatten()
        logits = self(batch["audio"])[keep].half().cpu().numpy()
        clip_ids = [batch["clip_id"][i] for i in keep.tolist()]
        self.parts.write(int(batch["index"][0]) // self.batch_size, clip_ids, logits)
