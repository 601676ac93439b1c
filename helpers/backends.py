"""What runs the network: waveforms in, probabilities per frame and per clip out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from errors import UserError

if TYPE_CHECKING:
    from torch import nn

BACKENDS = ("torch", "openvino", "onnxruntime")
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "32", "16", "bf16")
# Names in exported models: input, outputs, the spectrogram between front end and network, and what describes them.
INPUT, OUTPUTS, MEL, METADATA = "waveform", ("frames", "clip"), "mel", "efficientsed"
TUNING_KEYS = ("class_thresholds", "class_median_windows")  # of a checkpoint's metadata


class Backend(Protocol):
    """Runs a network on windows of equal length."""

    name: str  # of the model, for readers
    labels: Sequence[str]
    length: int | None  # samples that a window must have; None: any
    tuning: dict[str, Any]  # what was tuned for this model: class_thresholds [C], class_median_windows [C], or nothing
    has_tags: bool  # whether the probabilities per clip come from a trained head

    def __call__(self, waveforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Waveforms [B, N] at 16 kHz -> probabilities per frame [B, C, T] and per clip [B, Cw], float32."""
        ...


class TorchBackend:
    """Run a model of this project with PyTorch.

    Arguments:
        model: has `mel_forward`, `forward` and `labels` (models.SEDModel).
        device: "cpu", "cuda", "cuda:1", "mps", ...
        precision: one of `PRECISIONS`; the mel front end always computes in float32.
    """

    length: int | None = None

    def __init__(self, model: nn.Module, device: str = "cpu", precision: str = "32-true") -> None:
        import torch

        if precision not in PRECISIONS:
            raise UserError(f"unknown precision '{precision}': choose from {', '.join(PRECISIONS)}")
        self.device = check_device(device)
        number = precision.partition("-")[0]
        self.labels: Sequence[str] = model.labels  # type: ignore[assignment]
        self.name = model_title(model)
        self.tuning: dict[str, Any] = getattr(model, "tuning", {})
        self.has_tags = "weak_head" not in getattr(model, "untrained", ())
        self.model = _optimized(model, bfloat16=number == "bf16").to(self.device).eval()
        # An optimised model computes in bfloat16 by itself.
        plain = {"16": torch.float16} if self.model is not model else {"16": torch.float16, "bf16": torch.bfloat16}
        self._dtype = plain.get(number)

    def __call__(self, waveforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        autocast = torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None)
        with torch.inference_mode(), autocast:
            batch = torch.from_numpy(waveforms).to(self.device)
            strong, weak = self.model(self.model.mel_forward(batch))  # type: ignore[operator]
            return strong.float().sigmoid().cpu().numpy(), weak.float().sigmoid().cpu().numpy()

    @property
    def causal(self) -> bool:
        """Whether new frames can be computed alone: short-sighted convolutions under a causal sequence model."""
        if not getattr(self.model, "causal", False):
            return False
        return getattr(self.model.model, "window_frames", None) is None  # attention hears a whole window

    def embed(self, waveform: np.ndarray) -> np.ndarray:
        """Backbone embedding [T, F] of one waveform [N]; for streams."""
        import torch

        with torch.inference_mode():
            mel = self.model.mel_forward(torch.from_numpy(waveform)[None].to(self.device))  # type: ignore[operator]
            return self.model.embed(mel)[0].float().cpu().numpy()  # type: ignore[operator]

    def classify(self, embedding: np.ndarray) -> np.ndarray:
        """Probabilities [C, T] of an embedding [T, F]."""
        import torch

        with torch.inference_mode():
            features = self.model.seq_model(torch.from_numpy(embedding)[None].to(self.device))  # type: ignore[operator]
            return self.model.strong_head(features)[0].float().sigmoid().cpu().numpy()  # type: ignore[operator]


def _optimized(model: nn.Module, *, bfloat16: bool) -> nn.Module:
    """A faster copy of a model of this project; any other as it is."""
    from models.optimize import optimize_for_inference
    from models.sed_model import SEDModel

    return optimize_for_inference(model, bfloat16=bfloat16) if isinstance(model, SEDModel) else model


def model_title(model: nn.Module) -> str:
    """A model's name for readers, e.g. fmn10+tf:256."""
    name = str(getattr(model, "model_name", type(model).__name__))
    sequence = getattr(model, "seq_model_type", None)
    return f"{name}+{sequence}:{model.seq_model_dim}" if sequence else name


def check_device(name: str):  # type: ignore[no-untyped-def]
    """The torch device of that name; UserError when this machine does not have it."""
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] or type(error).__name__
        raise UserError(f"device '{name}' cannot be used here ({reason}): choose cpu, or leave --cuda away") from None
    return device


def load_torch_model(
    model_name: str,
    *,
    seq_model_type: str | None = None,
    seq_model_dim: int = 256,
    pretrained: str = "strong",
    checkpoint: str | Path | None = None,
) -> nn.Module:
    """Build the network of a name, a released checkpoint or a checkpoint file.

    A file of this project's own training says itself which model it holds; for others the names count.
    """
    # Idle OpenMP threads must not spin beside the thread that decodes; torch reads this when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import models
    from models.checkpoints import read_checkpoint

    metadata = {} if checkpoint is None else read_checkpoint(checkpoint)[1]
    if "model_name" in metadata:
        assert checkpoint is not None
        model = models.load_model(checkpoint)
    else:
        model = models.create_model(
            model_name,
            seq_model_type=seq_model_type,
            seq_model_dim=seq_model_dim,
            pretrained=pretrained,
            checkpoint=checkpoint,
        )
    if checkpoint is not None or pretrained != "scratch":
        model.require_trained("strong_head")
    model.tuning = {key: metadata[key] for key in TUNING_KEYS if metadata.get(key) is not None}  # type: ignore[assignment]
    return model


def load_backend(
    model_name: str,
    *,
    backend: str | None = None,
    device: str = "cpu",
    precision: str = "32-true",
    checkpoint: str | Path | None = None,
    **model_options: Any,
) -> Backend:
    """What runs a model: PyTorch, or another runtime.

    Args:
        backend: one of `BACKENDS`; None: what the checkpoint file is for. Runtimes other than PyTorch get an
            exported model, which is kept in resources/cache for the next time.
        checkpoint: weights file, or a file that export.py wrote.
        model_options: as in `load_torch_model`.
    """
    from helpers import runtimes

    if backend is not None and backend not in BACKENDS:
        raise UserError(f"--backend is {backend}: must be one of {', '.join(BACKENDS)}")
    if checkpoint is not None and Path(checkpoint).suffix.lower() in runtimes.ENDINGS:
        return runtimes.open_exported(Path(checkpoint), backend, device, precision)
    model = load_torch_model(model_name, checkpoint=checkpoint, **model_options)
    if backend in (None, "torch"):
        return TorchBackend(model, device, precision)
    from helpers.exporting import cached_onnx

    return runtimes.RUNTIMES[backend](cached_onnx(model), device, precision)
