"""Teacher logits of whole data sets: an ensemble's mean, batch by batch into parts, parts into one HDF5 file.

The clips are cut into fixed batches in the order of the data set. A batch is the unit of work: one process computes it
and writes it as one file of the final layout, under its final name only when it is whole. So a killed run goes on where
it was, the number of processes may change in between, and the contents do not depend on either.
"""

from __future__ import annotations

import hashlib
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
from data_util.audioset import ClipDataset
from data_util.hdf5_dataset import text_attribute
from data_util.hdf5_output import create_hdf5
from data_util.logit_codec import encode_logits
from data_util.pseudo_labels import DENSE, NAMES, PACKED, LogitsWriter
from data_util.samplers import rank_and_world
from errors import UserError
from json_text import json_text
from models.sed_model import SEDModel

REQUEST = "request"  # attribute of a part, and of a finished file: check sum of what it was made from


def fingerprint(models: Sequence[SEDModel], clips: ClipDataset) -> str:
    """Hash of what the logits are made from: the weights, the clips, sizes and times of their files."""
    digest = hashlib.sha256("\n".join(clips.clip_ids).encode())
    for file in clips.files:
        stat = file.path.stat()
        digest.update(f"\n{stat.st_size} {stat.st_mtime_ns}".encode())
    for model in models:
        digest.update(json_text(model.metadata(), ensure_ascii=True).encode())
        for name, value in model.state_dict().items():
            digest.update(name.encode())
            digest.update(value.float().cpu().numpy().tobytes())
    return digest.hexdigest()


class PartFolder:
    """The finished batches of a run, one `.hdf` each, beside the file that they become.

    Each part says itself which request it belongs to: one that another run has left is never used.

    Args:
        out: the final file.
        request: what determines the contents; the folder of another request is refused.
        compact: in the compact layout (see `data_util.pseudo_labels`).
    """

    def __init__(self, out: Path, request: str, *, compact: bool = False) -> None:
        self.out, self.compact = out, compact
        self.folder = out.with_name(f".{out.name}.parts")
        self.request = request

    def prepare(self) -> None:
        """Make the folder, or recognise that of an earlier run; raises UserError if it was another request."""
        note = self.folder / "request.txt"
        if note.is_file() and note.read_text(encoding="utf-8") != self.request:
            raise UserError(
                f"{self.folder} holds the parts of another run (other models, data or settings): finish that one, "
                "or remove the folder"
            )
        with replacing(note) as part:
            part.write_text(self.request, encoding="utf-8")

    def is_finished(self) -> bool:
        """Whether the final file is there and was made by this very request."""
        try:
            with h5py.File(self.out) as file:
                return text_attribute(file, REQUEST) == self._digest
        except OSError:
            return False

    @property
    def _digest(self) -> str:
        return hashlib.sha256(self.request.encode()).hexdigest()

    def path(self, batch: int) -> Path:
        """File of a batch."""
        return self.folder / f"{batch:07d}.hdf"

    def missing(self, n_batches: int) -> list[int]:
        """Numbers of the batches that are still to be computed."""
        return [batch for batch in range(n_batches) if not self._holds(batch)]

    def _holds(self, batch: int) -> bool:
        """Whether a batch is there, whole and of this request."""
        try:
            with h5py.File(self.path(batch)) as file:
                return text_attribute(file, REQUEST) == self.request
        except (OSError, RuntimeError):
            return False

    def progress(self, n_batches: int) -> str:
        """How far it is, and how to go on, in words."""
        n_done = n_batches - len(self.missing(n_batches))
        return f"{n_done} of {n_batches} batches are in {self.folder}; the same command resumes"

    def write(self, batch: int, clip_ids: Sequence[str], logits: np.ndarray) -> None:
        """Write a batch: names, and float16 [B, C, T], finite."""
        rows = [np.frombuffer(encode_logits(x), np.uint8) for x in logits] if self.compact else logits
        with (
            replacing(self.path(batch)) as part,
            create_hdf5(part) as file,
            LogitsWriter(file, logits.shape[1:], compact=self.compact) as writer,
        ):
            writer.write([clip.encode() for clip in clip_ids], rows)
            file.attrs[REQUEST] = self.request

    def merge(self, n_batches: int) -> list[str]:
        """Put all batches into the final file, in order, and remove the parts; returns the names of the clips.

        Raises:
            UserError: there is not a single clip; nothing is written then, and the parts are removed. A batch is
                missing.
        """
        if missing := self.missing(n_batches):
            raise UserError(f"{self.path(missing[0])} is missing or damaged; run the same command again")
        with h5py.File(self.path(0)) as first:
            shape = tuple(first[PACKED].attrs["shape"]) if self.compact else first[DENSE].shape[1:]
        with (
            replacing(self.out) as part,
            create_hdf5(part) as file,
            LogitsWriter(file, shape, compact=self.compact) as writer,
        ):
            file.attrs[REQUEST] = self._digest
            for batch in range(n_batches):
                with h5py.File(self.path(batch)) as content:
                    writer.write(content[NAMES][:].tolist(), content[PACKED if self.compact else DENSE][:])
            if not writer.names:
                shutil.rmtree(self.folder)
                raise UserError(f"{self.out} is not written: no clip could be decoded and got finite logits")
        shutil.rmtree(self.folder)
        return [name.decode() for name in writer.names]


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
        # With fewer batches left than processes, some have nothing to do.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.models = nn.ModuleList(models).requires_grad_(False).eval()
        self.parts, self.batch_size = parts, batch_size

    def forward(self, audio: Tensor) -> Tensor:
        """Mean logits [B, C, T], float32, of waveforms [B, N]."""
        logits = [model(model.mel_forward(audio))[0].float() for model in self.models]  # type: ignore[operator]
        if len({x.shape for x in logits}) != 1:
            raise UserError(f"the models give different numbers of frames: {[x.shape[-1] for x in logits]}")
        return torch.stack(logits).mean(0)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Compute one batch and write it, without the clips that have no audio or whose logits are not finite."""
        logits = self(batch["audio"]).half()
        keep = (batch["valid"] & logits.isfinite().flatten(1).all(1)).nonzero().flatten()
        clip_ids = [batch["clip_id"][i] for i in keep.tolist()]
        self.parts.write(int(batch["index"][0]) // self.batch_size, clip_ids, logits[keep].cpu().numpy())
