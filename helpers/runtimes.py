"""Backends for exported models: ONNX Runtime and OpenVINO."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from errors import UserError
from helpers.backends import INPUT, MEL, METADATA, OUTPUTS, TUNING_KEYS, Backend

Scores = tuple[np.ndarray, np.ndarray]
CHECKED_SAMPLES = 160_000
LARGEST_ERROR = 0.1  # of 99.9 % of the probabilities in low precision


def _metadata(text: str | None, path: Path) -> dict[str, Any]:
    """What the export wrote beside the graph."""
    if text is None:
        raise UserError(f"'{path}' was not written by export.py: it does not say what its outputs are")
    return json.loads(text)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"model file '{path}' does not exist")


class OnnxBackend:
    """Run an ONNX file of export.py with ONNX Runtime.

    Arguments:
        path: the file.
        device: "cpu" or "cuda".
        precision: must be "32-true"; export with --half for float16 weights.
    """

    def __init__(self, path: Path, device: str = "cpu", precision: str = "32-true") -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UserError("--backend onnxruntime needs the package onnxruntime: pip install onnxruntime") from None
        _check_file(path)
        if precision not in ("32-true", "32"):
            raise UserError(f"--precision is {precision}: onnxruntime computes in that of the file (32-true)")
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.partition(":")[0])
        if provider not in onnxruntime.get_available_providers():
            raise UserError(f"--device is {device}: this onnxruntime has only {onnxruntime.get_available_providers()}")
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=[provider])
        except Exception as error:
            raise UserError(f"'{path}' cannot be read as ONNX: {str(error).splitlines()[0]}") from None
        about = _metadata(self._session.get_modelmeta().custom_metadata_map.get(METADATA), path)
        self.name, self.labels, self.length = f"{about['name']} (ONNX Runtime)", tuple(about["labels"]), about["length"]
        self.tuning = {key: about[key] for key in TUNING_KEYS if key in about}
        self.has_tags = bool(about.get("has_tags", True))

    def __call__(self, waveforms: np.ndarray) -> Scores:
        """Waveforms [B, N] -> probabilities [B, C, T] and [B, Cw]."""
        strong, weak = self._session.run(list(OUTPUTS), {INPUT: waveforms})
        return strong, weak


_OPENVINO_PRECISIONS = {
    "32-true": "f32",
    "32": "f32",
    "bf16-mixed": "bf16",
    "bf16": "bf16",
    "16-mixed": "f16",
    "16": "f16",
}


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's entry point, one for the life of the process.

    Its CPU plugin gives the thread a stack for signal handlers, which is unmapped when the plugin goes while a later
    one remembers it: with two of them in turn, the next signal (of a data loader's worker, say) ends the process.
    """
    import openvino

    return openvino.Core()


class OpenVINOBackend:
    """Run an ONNX or OpenVINO file of export.py with OpenVINO.

    Arguments:
        path: .onnx or .xml.
        device: "cpu", "gpu", "npu", or a name of OpenVINO's.
        precision: of the network; the mel front end always computes in float32, since its values span twelve decades.
    """

    def __init__(self, path: Path, device: str = "cpu", precision: str = "32-true") -> None:
        try:
            import openvino
        except ImportError:
            raise UserError("--backend openvino needs the package openvino: pip install openvino") from None
        _check_file(path)
        if precision not in _OPENVINO_PRECISIONS:
            raise UserError(f"--precision is {precision}: OpenVINO knows {', '.join(_OPENVINO_PRECISIONS)}")
        self._core = openvino_core()
        if device.upper().partition(".")[0] not in self._core.available_devices:
            raise UserError(f"--device is {device}: OpenVINO finds only {', '.join(self._core.available_devices)}")
        self._device = device.upper()
        try:
            model = self._core.read_model(path)
        except Exception as error:
            raise UserError(f"'{path}' cannot be read by OpenVINO: {str(error).splitlines()[0]}") from None
        about = _metadata(_stored(model), path)
        self.name, self.labels, self.length = f"{about['name']} (OpenVINO)", tuple(about["labels"]), about["length"]
        self.tuning = {key: about[key] for key in TUNING_KEYS if key in about}
        self.has_tags = bool(about.get("has_tags", True))
        self._precision = _OPENVINO_PRECISIONS[precision]
        if self._precision == "f32":
            self._front, self._net = None, self._compile(model, "f32")
        else:
            front, net = _cut(openvino, model, self._core.read_model(path))
            self._front, self._net = self._compile(front, "f32"), self._compile(net, self._precision)
            self._refuse_if_wrong(net, precision)

    def _refuse_if_wrong(self, net: Any, precision: str) -> None:
        """Compare with float32 on one window: some networks multiply too many numbers for a short mantissa."""
        rng = np.random.default_rng(0)
        window = 0.1 * rng.standard_normal((1, self.length or CHECKED_SAMPLES)).astype(np.float32)
        short, self._net = self._net, self._compile(net, "f32")
        expected = self(window)[0]
        self._net = short
        error = np.abs(self(window)[0] - expected)
        if not np.quantile(error, 0.999) < LARGEST_ERROR:  # NaN included
            raise UserError(f"--precision is {precision}: {self.name} does not survive it; choose 32-true")

    def _compile(self, model: Any, precision: str) -> Any:
        return self._core.compile_model(
            model, self._device, {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        )

    def __call__(self, waveforms: np.ndarray) -> Scores:
        """Waveforms [B, N] -> probabilities [B, C, T] and [B, Cw]."""
        inputs = {INPUT: waveforms} if self._front is None else {INPUT: waveforms, MEL: self._front(waveforms)[0]}
        results = self._net(inputs)
        # The arrays belong to the request and would be overwritten by the next call.
        return tuple(np.array(results[name], np.float32) for name in OUTPUTS)  # type: ignore[return-value]


def _stored(model: Any) -> str | None:
    """The metadata of an .xml file, or of an .onnx file as OpenVINO passes it on."""
    for place in ([METADATA], ["framework", METADATA]):
        if model.has_rt_info(place):
            value = model.get_rt_info(place)
            return value.value if hasattr(value, "value") else str(value)
    return None


def _cut(openvino: Any, model: Any, copy: Any) -> tuple[Any, Any]:
    """The model's front end up to the mel, and the network after it; `model` and its copy are used up."""
    mel = _mel_output(model)
    parameter = openvino.opset13.parameter(mel.partial_shape, np.float32, name=MEL)
    for consumer in list(mel.get_target_inputs()):
        consumer.replace_source_output(parameter.output(0))
    parameter.output(0).get_tensor().set_names({MEL})
    # The network may still ask the waveform for its shape.
    net = openvino.Model(model.outputs, [parameter, *model.get_parameters()], "net")
    return openvino.Model([_mel_output(copy)], copy.get_parameters(), "front"), net


def _mel_output(model: Any) -> Any:
    for node in model.get_ordered_ops():
        for output in node.outputs():
            if MEL in output.get_names():
                return output
    raise UserError("the exported model has no tensor named mel: export it again")


RUNTIMES: dict[str, Any] = {"onnxruntime": OnnxBackend, "openvino": OpenVINOBackend}
ENDINGS: dict[str, Sequence[str]] = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",)}


def open_exported(path: Path, backend: str | None, device: str, precision: str) -> Backend:
    """The backend for a file of export.py: the one that is asked for, or the first that reads such files."""
    known = ENDINGS[path.suffix.lower()]
    if backend is not None and backend not in known:
        raise UserError(f"--backend is {backend}: '{path}' runs with {' or '.join(known)}")
    return RUNTIMES[backend or known[0]](path, device, precision)
