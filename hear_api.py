"""Embeddings of any model through the common API of HEAR 2021 (Turian et al., "HEAR: Holistic Evaluation of Audio
Representations", NeurIPS 2021 competition track), for `hear-validator` and `heareval`.

    hear-validator hear_api --model runs/as_strong/best.ckpt
    python -m heareval.embeddings.runner hear_api --model fmn10_weak --tasks-dir DIR
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import models
from models import checkpoints, registry
from models.sed_model import SEDModel

DEFAULT_MODEL = "fmn10_weak"  # of the released ones
PASS_SAMPLES = 16 * 160_000  # of all clips that go through the network at once; bounds the memory
FRAME_MS = 1000.0 / registry.FRAME_RATE


class Embedder(nn.Module):
    """A detector without its heads.

    Attributes:
        sample_rate: Hz of the audio that it takes.
        scene_embedding_size, timestamp_embedding_size: features per clip and per frame, which are the same.
    """

    sample_rate = registry.SAMPLE_RATE

    def __init__(self, detector: SEDModel) -> None:
        super().__init__()
        self.detector = detector.eval()
        self.timestamp_embedding_size = self.scene_embedding_size = detector.weak_head.in_features

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """What the heads would see, [n_sounds, T, features] float32, of audio [n_sounds, n_samples] in -1 ... 1."""
        if audio.ndim != 2:
            raise ValueError(f"expected audio [n_sounds, n_samples], got {tuple(audio.shape)}")
        parts = audio.float().split(max(1, PASS_SAMPLES // max(1, audio.shape[1])))
        return torch.cat([self.detector.features(self.detector.mel_forward(part)).float() for part in parts])


def load_model(model_file_path: str = "") -> Embedder:
    """The model of a file.

    Args:
        model_file_path: a checkpoint of this project's training; a released file under its own name; or the name of a
            released file (`python inference.py --list_models`), which is downloaded. Empty: `fmn10_weak`.

    Raises:
        UserError: no such file or name, or weights that cannot be used.
    """
    path = Path(model_file_path or DEFAULT_MODEL)
    metadata = checkpoints.read_checkpoint(path)[1] if path.is_file() else {}
    card = next((card for card in models.cards().values() if path.name in (card.name, card.file_name)), None)
    if card is None or "model_name" in metadata:
        return Embedder(models.load_model(path))
    return Embedder(
        models.create_model(
            card.backbone,
            seq_model_type=card.seq_model_type,
            seq_model_dim=card.seq_model_dim or 256,
            pretrained=card.name,
            checkpoint=path if path.is_file() else None,
        )
    )


def get_timestamp_embeddings(audio: Tensor, model: Embedder) -> tuple[Tensor, Tensor]:
    """Embeddings every 40 ms, as long as the centre of the frame lies within the audio.

    Args:
        audio: [n_sounds, n_samples], -1 ... 1, 16 kHz, of any length, on the device of the model.
        model: what `load_model` returned.

    Returns:
        (embeddings [n_sounds, n_timestamps, features], centres of their frames in milliseconds
        [n_sounds, n_timestamps]), float32, on the device of the audio.
    """
    half = round(model.sample_rate * FRAME_MS / 2000)  # samples before the centre of the first frame
    n_inside = max(1, (audio.shape[1] + half) // (2 * half))
    embeddings = model(audio)[:, :n_inside]
    stamps = (torch.arange(embeddings.shape[1], device=audio.device, dtype=torch.float32) + 0.5) * FRAME_MS
    return embeddings, stamps.expand(len(audio), -1)


def get_scene_embeddings(audio: Tensor, model: Embedder) -> Tensor:
    """One embedding per clip, [n_sounds, features] float32: the mean over its frames; arguments as above."""
    return model(audio).mean(1)
