"""The sound event detector: backbone, sequence model, heads; and the one function that builds it."""

from __future__ import annotations

import csv
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from errors import UserError
from models import checkpoints
from models.cards import RESOURCES, find_card
from models.heads import StrongHead, WeakHead
from models.registry import FRAME_RATE, build_backbone, build_sequence_model

if TYPE_CHECKING:
    from models.optimize import FastSEDModel

log = logging.getLogger(__name__)

# Heads in released files that no loss ever reached.
UNTRAINED_HEADS = {stage: frozenset({"weak_head"}) for stage in ("strong", "advanced-kd-weak-strong")}
N_STRONG_CLASSES = 447  # AudioSet Strong, training set


@functools.cache
def audioset_strong_labels() -> tuple[str, ...]:
    """The 447 class names of AudioSet Strong in the order of the published models' outputs."""
    with (RESOURCES / "audioset_strong_classes.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train_index"]]
    return tuple(row["name"] for row in sorted(rows, key=lambda row: int(row["train_index"])))


class SEDModel(nn.Module):
    """Sound event detector: waveform -> mel -> logits per frame (strong) and per clip (weak).

    The two steps are separate because training augments the mel in between:
    `mel_forward(waveform [B, N]) -> mel [B, 1, F, frames]`, `forward(mel) -> (strong [B, C, T], weak [B, Cw])`.
    T is 25 frames per second of the audio; 250 for 10 s.

    Args:
        model_name: a registered backbone (`models.list_models()`).
        seq_model_type: a registered sequence model, or None for none.
        seq_model_dim: its number of features.
        labels: names of the strong classes; n_classes_weak: outputs of the weak head.

    Attributes:
        untrained: those of `models.checkpoints.PARTS` whose weights are random, or were never trained.
    """

    frame_rate = FRAME_RATE

    def __init__(
        self,
        model_name: str,
        seq_model_type: str | None,
        seq_model_dim: int,
        labels: Sequence[str],
        n_classes_weak: int,
    ) -> None:
        super().__init__()
        self.model_name, self.seq_model_type, self.seq_model_dim = model_name, seq_model_type, seq_model_dim
        self.labels = tuple(labels)
        self.untrained = frozenset(checkpoints.PARTS if seq_model_type else checkpoints.HEADS)
        self.model = build_backbone(model_name)
        self.seq_model = build_sequence_model(seq_model_type, self.model.embed_dim, seq_model_dim)
        features: int = self.seq_model.out_dim  # type: ignore[assignment]
        self.strong_head = StrongHead(features, len(self.labels))
        self.weak_head = WeakHead(features, n_classes_weak)

    def mel_forward(self, waveform: Tensor, **mel_range: float) -> Tensor:
        """Spectrogram [B, 1, F, frames] of waveforms [B, N] at 16 kHz, float32 and without gradient.

        `fmin` and `fmax` (Hz) move the mel filters, where the backbone `has_mel_range`.
        """
        if waveform.ndim != 2:
            raise ValueError(f"expected waveforms [B, N], got {tuple(waveform.shape)}")
        return self.model.mel_forward(waveform, **mel_range)

    def embed(self, mel: Tensor) -> Tensor:
        """Backbone embedding [B, T, C] at 25 frames per second of the audio behind `mel`."""
        return self.model.embed(mel)

    def features(self, mel: Tensor) -> Tensor:
        """What the heads see, [B, T, F]: the embedding after the sequence model."""
        return self.seq_model(self.embed(mel))

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of a spectrogram [B, 1, F, frames]: strong [B, C, T] and weak [B, Cw]."""
        features = self.features(mel)
        return self.strong_head(features), self.weak_head(features)

    def require_trained(self, head: str) -> None:
        """Raise UserError if the scores of a head (`strong_head` or `weak_head`) would mean nothing."""
        random = [part.replace("_", " ") for part in ("seq_model", head) if part in self.untrained]
        if random:
            sequence = f" with {self.seq_model_type}:{self.seq_model_dim}" if self.seq_model_type else ""
            command = f"python ex_finetune.py --model_name {self.model_name} --checkpoint FILE --audio DIR"
            how = f"train one from them: {command}" if head == "strong_head" else "train it first"
            raise UserError(
                f"these weights hold no trained {' and no trained '.join(random)} for {self.model_name}{sequence} with "
                f"{len(self.labels)} classes: its scores would be noise; name weights of a detector, or {how}"
            )

    @property
    def causal(self) -> bool:
        """Whether the sequence model looks only into the past (backbones look about 0.8 s ahead)."""
        return bool(self.seq_model.causal)

    def optimize_for_inference(self, bfloat16: bool = False) -> FastSEDModel:
        """A faster copy for inference alone, equal to 1e-4 (`bfloat16`: to about 1 %); see `models.optimize`."""
        from models.optimize import optimize_for_inference

        return optimize_for_inference(self, bfloat16)

    def metadata(self) -> dict[str, Any]:
        """What a checkpoint must carry to build this model again."""
        return {
            "model_name": self.model_name,
            "seq_model_type": self.seq_model_type,
            "seq_model_dim": self.seq_model_dim,
            "labels": list(self.labels),
            "n_classes_weak": self.weak_head.out_features,
            "untrained": sorted(self.untrained),
        }


def create_model(
    model_name: str,
    *,
    seq_model_type: str | None = None,
    seq_model_dim: int = 256,
    n_classes_strong: int = N_STRONG_CLASSES,
    n_classes_weak: int | None = None,
    pretrained: str | None = None,
    checkpoint: str | Path | None = None,
    labels: Sequence[str] | None = None,
) -> SEDModel:
    """Build a detector, with released weights (`pretrained`) or those of a file (`checkpoint`) if named.

    Args:
        model_name: a registered backbone, e.g. "fmn10".
        seq_model_type: "tf", "attn", "gru", ... or None.
        seq_model_dim: features of the sequence model.
        n_classes_strong: outputs per frame.
        n_classes_weak: outputs per clip; as many as per frame if None.
        pretrained: a stage of training ("ssl", "weak", "strong", "advanced-kd-weak-strong") or the name of a model
            card; None or "scratch": random weights. The file is downloaded to resources/ when it is not there.
        checkpoint: a weights file in any layout of `models.checkpoints`; in place of `pretrained`.
        labels: names of the strong classes; AudioSet Strong's for 447 classes, "0", "1", ... for others.

    Raises:
        UserError: unknown name, wrong dimension, missing or unsuitable weights.
    """
    if labels is None:
        own = n_classes_strong == N_STRONG_CLASSES
        labels = audioset_strong_labels() if own else [str(i) for i in range(n_classes_strong)]
    elif len(labels) != n_classes_strong and n_classes_strong != N_STRONG_CLASSES:
        raise UserError(f"{len(labels)} labels for {n_classes_strong} classes")
    if seq_model_type is not None and seq_model_dim < 1:
        raise UserError(f"seq_model_dim is {seq_model_dim}; it must be positive")
    model = SEDModel(model_name, seq_model_type, seq_model_dim, labels, n_classes_weak or len(labels))
    never_trained: frozenset[str] = frozenset()
    if checkpoint is None and pretrained not in (None, "scratch"):
        card = find_card(model_name, str(pretrained), seq_model_type, seq_model_dim)
        checkpoint = checkpoints.fetch(card)
        never_trained = UNTRAINED_HEADS.get(card.stage, never_trained)
    if checkpoint is not None:
        report = checkpoints.load_weights(model, checkpoint)
        log.info("%s", report)
        model.untrained = report.untrained | never_trained
    return model.eval()


def load_model(path: str | Path) -> SEDModel:
    """The detector that a checkpoint of this project's training holds, with its own labels.

    Raises UserError for a foreign file: it does not say which model it belongs to.
    """
    state, metadata = checkpoints.read_checkpoint(path)
    if "model_name" not in metadata:
        raise UserError(f"'{path}' does not say which model it holds; name it with --model_name and --seq_model_type")
    labels = metadata["labels"]
    model = SEDModel(
        metadata["model_name"],
        metadata["seq_model_type"],
        metadata["seq_model_dim"],
        labels,
        metadata["n_classes_weak"],
    )
    report = checkpoints.load_state(model, state, str(path))
    model.untrained = report.untrained | frozenset(metadata.get("untrained", ()))
    return model.eval()
