"""A frozen detector whose outputs are the targets of another one."""

from __future__ import annotations

import torch
from torch import Tensor

from errors import UserError
from helpers.losses import soft_targets
from models import checkpoints
from models.cards import find_card
from models.registry import backbone_names, unknown_name
from models.sed_model import SEDModel, create_model, load_model

N_WEAK_CLASSES = 527  # AudioSet


class Teacher:
    """A detector in evaluation mode, without gradients; no module, so that no checkpoint or optimiser holds it.

    Args:
        model: the detector.
        temperature: divides its logits.
    """

    def __init__(self, model: SEDModel, temperature: float = 1.0) -> None:
        self.model = model.eval().requires_grad_(False)
        self.temperature = temperature

    def to(self, device: torch.device) -> Teacher:
        """Move the network."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def mel(self, waveform: Tensor) -> Tensor:
        """The teacher's own spectrogram [B, 1, F, frames] of waveforms [B, N]."""
        return self.model.mel_forward(waveform)

    @torch.no_grad()
    def frames(self, mel: Tensor, n_frames: int) -> Tensor:
        """Probabilities [B, C, n_frames] of the strong classes."""
        logits = self.model(mel)[0]
        if logits.shape[-1] != n_frames:
            raise ValueError(f"the teacher gives {logits.shape[-1]} frames, the student {n_frames}")
        return soft_targets(logits, self.temperature)

    @torch.no_grad()
    def tags(self, waveform: Tensor) -> Tensor:
        """Probabilities [B, Cw] of the weak classes."""
        return soft_targets(self.model(self.mel(waveform))[1], self.temperature)


def build_teacher(
    model_name: str | None,
    *,
    head: str,
    seq_model_type: str | None = None,
    seq_model_dim: int = 256,
    pretrained: str | None = None,
    checkpoint: object = None,
    temperature: float = 1.0,
) -> Teacher:
    """Build a teacher with trained weights, whatever the student starts from.

    Args:
        model_name: a registered backbone; None: the checkpoint says it itself.
        head: `strong_head` or `weak_head`, which must come with the weights.
        seq_model_type: sequence model, or None.
        seq_model_dim: its features.
        pretrained: stage or name of released weights.
        checkpoint: weights file, in place of `pretrained`.
        temperature: divides its logits.

    Raises:
        UserError: no weights are named, they do not fit, or they do not hold the head.
    """
    if checkpoint is not None and "model_name" in checkpoints.read_checkpoint(str(checkpoint))[1]:
        model = load_model(str(checkpoint))
        model.require_trained(head)
        return Teacher(model, temperature)
    if model_name is None:
        raise UserError(f"--teacher_model_name is missing: '{checkpoint or pretrained}' does not say which model it is")
    if model_name not in backbone_names():
        raise unknown_name("--teacher_model_name", model_name, backbone_names())
    if checkpoint is None:
        checkpoint = checkpoints.fetch(find_card(model_name, str(pretrained), seq_model_type, seq_model_dim))
    model = create_model(
        model_name, seq_model_type=seq_model_type, seq_model_dim=seq_model_dim, n_classes_weak=N_WEAK_CLASSES
    )
    model.untrained = checkpoints.load_weights(model, str(checkpoint)).untrained
    model.require_trained(head)
    return Teacher(model, temperature)
