"""Models as one graph from waveform to probabilities, for runtimes without PyTorch."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atomic import unfinished
from errors import UserError
from helpers.backends import INPUT, MEL, METADATA, OUTPUTS, TUNING_KEYS, model_title
from helpers.events import FRAME_RATE
from helpers.runtimes import openvino_core
from json_text import json_text
from printable import printable

SAMPLE_RATE = 16_000
OPSET = 18
EXAMPLE_SECONDS = 10
# Axes of the input and outputs; a runtime shows those that are free by these names.
AXES = {INPUT: ("batch", "samples"), OUTPUTS[0]: ("batch", "classes", "frames"), OUTPUTS[1]: ("batch", "tags")}
SCAN_STEPS = 12  # recurrences are computed for up to 2^12 frames, 164 s, at once
MIN_HALVED = 1024  # values; smaller constants are not worth a cast
EXPORT_VERSION = 2  # to be raised when the same weights give another file
CACHE = Path(__file__).resolve().parent.parent / "resources" / "cache"


@dataclass(frozen=True)
class _Spectrum:
    """Stands for a complex tensor, which runtimes do not have."""

    real: Tensor
    imag: Tensor


@cache
def _dft(n_fft: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and negative sines, float32 [n_fft // 2 + 1, n_fft], of the one-sided discrete Fourier transform."""
    angle = 2 * np.pi / n_fft * (np.outer(np.arange(n_fft // 2 + 1), np.arange(n_fft)) % n_fft)
    return np.cos(angle).astype(np.float32), -np.sin(angle).astype(np.float32)


def _stft(
    x: Tensor,
    n_fft: int,
    hop_length: int,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    pad_mode: str = "reflect",
    **_: Any,
) -> _Spectrum:
    """`torch.stft` of [B, N] as one convolution, whose kernels are windowed cosines and sines."""
    length = win_length or n_fft
    offset = (n_fft - length) // 2  # a short window stands in the middle of the transform
    cosine, sine = (torch.from_numpy(w[:, offset : offset + length].copy()) for w in _dft(n_fft))
    shape = torch.ones(length) if window is None else window.float()
    kernels = torch.cat([cosine * shape, sine * shape])[:, None]  # [2 * bins, 1, length]
    if center:
        x = F.pad(x[:, None], (n_fft // 2, n_fft // 2), mode=pad_mode)[:, 0]
    x = x[:, offset : x.shape[1] - (n_fft - length - offset)]
    spectrum = F.conv1d(x[:, None], kernels, stride=hop_length)
    return _Spectrum(*spectrum.chunk(2, dim=1))


def _rfft(x: Tensor, n: int | None = None, **_: Any) -> _Spectrum:
    """`torch.fft.rfft` over the last axis as matrix products."""
    length = int(x.shape[-1])
    cosine, sine = (torch.from_numpy(w[:, :length].T.copy()) for w in _dft(n or length))
    return _Spectrum(x @ cosine, x @ sine)


def _doubling_scan(decay: Tensor, added: Tensor) -> Tensor:
    """States h_k = decay_k h_(k-1) + added_k along axis 1 from h = 0, in a fixed number of steps for any length.

    Step i joins stretches of 2^i (Hillis and Steele, "Data parallel algorithms", 1986). `decay` [B, K, ...] has as
    many axes as `added` [B, K, ...].
    """
    for i in range(SCAN_STEPS):
        decay_before, added_before = (_shifted(v, 2**i) for v in (decay, added))
        added = added + decay * added_before
        decay = decay * decay_before
    return added


def _shifted(x: Tensor, n: int) -> Tensor:
    """[B, K, ...] moved to later positions by n, zeros first."""
    padding = [0, 0] * (x.ndim - 2) + [n, 0]
    return F.pad(x, padding)[:, : x.shape[1]]


def _min_gru_scan(hidden: Tensor, gate: Tensor) -> Tensor:
    """`models.sequence.min_gru.min_gru_scan` without a loop over frames."""
    candidate = torch.where(hidden >= 0, hidden + 0.5, hidden.sigmoid())
    return _doubling_scan((-gate).sigmoid(), candidate * gate.sigmoid())


def _states_before(states: Tensor, decay: Tensor) -> Tensor:
    """`models.sequence.mamba._states_before` without a loop over chunks."""
    return _shifted(_doubling_scan(decay[..., None, None], states), 1)


@contextlib.contextmanager
def exportable(*, complex_numbers: bool = False) -> Iterator[None]:
    """Within it, what no graph can hold is replaced: loops over frames and, unless allowed, complex numbers."""
    from models.sequence import mamba, min_gru

    places: list[tuple[Any, str, Any]] = [(min_gru, "min_gru_scan", _min_gru_scan)]
    places += [(mamba, "_states_before", _states_before)]
    if not complex_numbers:
        places += [(torch, "stft", _stft), (torch.fft, "rfft", _rfft)]
    kept = [getattr(module, name) for module, name, _ in places]
    for module, name, function in places:
        setattr(module, name, function)
    try:
        yield
    finally:
        for (module, name, _), function in zip(places, kept, strict=True):
            setattr(module, name, function)


class WaveformToScores(nn.Module):
    """Waveform [B, N] at 16 kHz -> probabilities per frame [B, C, T] and per clip [B, Cw], and the mel behind them.

    Args:
        model: a `models.SEDModel`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities in [0, 1]."""
        mel = self.model.mel_forward(waveform)  # type: ignore[operator]
        strong, weak = self.model(mel)
        return strong.sigmoid(), weak.sigmoid(), mel


def metadata(model: nn.Module) -> dict[str, Any]:
    """What a runtime must know beside the graph."""
    tuning = {key: value for key, value in getattr(model, "tuning", {}).items() if key in TUNING_KEYS}
    return {
        "name": model_title(model),
        "labels": list(model.labels),  # type: ignore[arg-type]
        "sample_rate": SAMPLE_RATE,
        "frame_rate": FRAME_RATE,
        "has_tags": "weak_head" not in getattr(model, "untrained", ()),
        **tuning,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters talk a lot, mostly to their own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def require(package: str) -> Any:
    """Import an optional package; UserError with the one command that installs it."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(f"this needs the package {package}: pip install {package}") from None


def export_onnx(model: nn.Module, path: Path, *, half: bool = False) -> bool:
    """Write a model as ONNX with `waveform` in and `frames`, `clip` out.

    Args:
        model: a `models.SEDModel` on the CPU.
        path: file to write.
        half: store the weights of the network, not those of the mel front end, in float16.

    Returns:
        Whether waveforms of any length fit in; else those of 10 s only. Any batch does.
    """
    onnx = require("onnx")
    require("onnxscript")
    # Transformers cut audio above 10 s into windows, in ways that depend on the length and that no graph can hold.
    any_length = getattr(model.model, "window_frames", None) is None
    with _quiet(), exportable(), torch.no_grad():
        graph = _onnx_graph(WaveformToScores(model).eval(), any_length=any_length)
    _strip(graph.graph)
    outputs = {value.name: value for value in graph.graph.output}
    graph.graph.output.remove(outputs[MEL])  # keeps its name inside the graph, where backends cut it
    _name_axes(graph.graph)
    length = None if any_length else EXAMPLE_SECONDS * SAMPLE_RATE
    graph.metadata_props.add(key=METADATA, value=json_text({**metadata(model), "length": length}, ensure_ascii=True))
    if half:
        _halve_weights(onnx, graph.graph)
    onnx.save(graph, path)
    return any_length


def _example() -> Tensor:
    """10 s of noise, twice."""
    return torch.randn(2, EXAMPLE_SECONDS * SAMPLE_RATE) * 0.1


def _strip(graph: Any) -> None:
    """Take out what the exporter notes for its developers: lines of source code and paths of this machine."""
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        item.ClearField("metadata_props")
    graph.ClearField("metadata_props")


def _name_axes(graph: Any) -> None:
    """Call the free axes of input and outputs what they are, where exporters have names such as s77."""
    names: dict[str, str] = {}
    for value in (*graph.input, *graph.output):
        for dim, axis in zip(value.type.tensor_type.shape.dim, AXES[value.name], strict=True):
            if not dim.HasField("dim_value"):
                if dim.dim_param:
                    names.setdefault(dim.dim_param, axis)
                dim.dim_param = axis
    for value in graph.value_info:  # the same axes within
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]


def _halve_weights(onnx: Any, graph: Any) -> None:
    """Store large float32 constants behind the mel in float16, each with a cast to float32 after it."""
    makers = {output: node for node in graph.node for output in node.output}
    front, todo = set(), [MEL]
    while todo:
        name = todo.pop()
        front.add(name)
        if name in makers:
            todo += [parent for parent in makers[name].input if parent not in front]
    casts = []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        small = values.size < MIN_HALVED or np.abs(values).max(initial=0) > np.finfo(np.float16).max
        if values.dtype != np.float32 or small or tensor.name in front:
            continue
        name, stored = tensor.name, f"{tensor.name}.float16"
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    for i, node in enumerate(casts):
        graph.node.insert(i, node)


def _onnx_graph(wrapper: nn.Module, *, any_length: bool) -> Any:
    """The ONNX graph of a wrapped model; recurrent layers go through the older exporter, the newer unrolls them."""
    onnx = require("onnx")
    names: dict[str, Any] = {"input_names": [INPUT], "output_names": [*OUTPUTS, MEL], "opset_version": OPSET}
    if any(isinstance(module, nn.RNNBase) for module in wrapper.modules()):
        axes = {INPUT: {0: "batch", 1: "samples"}, MEL: {0: "batch", 3: "mel_frames"}}
        axes |= {OUTPUTS[0]: {0: "batch", 2: "frames"}, OUTPUTS[1]: {0: "batch"}}
        file = io.BytesIO()
        torch.onnx.export(wrapper, (_example(),), file, dynamo=False, dynamic_axes=axes, **names)  # type: ignore[arg-type]
        return onnx.load_from_string(file.getvalue())
    dynamic = torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic, 1: dynamic} if any_length else {0: dynamic},)
    program = torch.onnx.export(wrapper, (_example(),), dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
    return program.model_proto  # type: ignore[union-attr]


def export_openvino(onnx_path: Path, path: Path) -> None:
    """Write an exported ONNX file as OpenVINO IR (`path` .xml and its .bin); float16 weights stay so."""
    openvino = require("openvino")
    onnx = require("onnx")
    model = openvino_core().read_model(onnx_path)
    about = {prop.key: prop.value for prop in onnx.load(onnx_path, load_external_data=False).metadata_props}
    model.set_rt_info(about[METADATA], METADATA)
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        if "iostream" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None  # it does not say why


def export_torchscript(model: nn.Module, path: Path) -> None:
    """Write a model as TorchScript, for LibTorch: `waveform` in, (`frames`, `clip`, mel) out."""
    with _quiet(), exportable(complex_numbers=True), torch.no_grad():
        traced = torch.jit.trace(WaveformToScores(model).eval(), (_example(),), check_trace=False)
    buffer = io.BytesIO()  # torch does not say why it cannot write a file
    torch.jit.save(traced, buffer, _extra_files={f"{METADATA}.json": json_text(metadata(model), ensure_ascii=True)})
    path.write_bytes(buffer.getbuffer())


def cached_onnx(model: nn.Module, folder: Path = CACHE) -> Path:
    """The model as ONNX, exported once and kept in `folder` under the check sum of its weights."""
    digest = hashlib.sha256(json_text([EXPORT_VERSION, metadata(model)], ensure_ascii=True, sort_keys=True).encode())
    for key, value in model.state_dict().items():
        digest.update(key.encode() + value.contiguous().cpu().numpy().tobytes())
    path = folder / f"{digest.hexdigest()[:24]}.onnx"
    if not path.exists():
        print(printable(f"exporting the model to {path}, once"), file=sys.stderr, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        with unfinished(path.with_suffix(f".part{os.getpid()}.onnx")) as part:
            export_onnx(model, part)
            os.replace(part, path)
    return path
