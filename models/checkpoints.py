"""Weights from files: downloading released ones, and loading every known layout into a model.

Layouts: released files (flat state dicts whose keys start with `net.` or `model.`), ImageNet and AudioSet files
of the clip-wise MobileNets, released transformer files, and checkpoints of this project's own training.
All are read with `weights_only=True`: no code from a file is ever run.
"""

from __future__ import annotations

import http.client
import os
import re
import sys
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import locks
from errors import UserError, one_line, reading
from models.cards import RESOURCES, Card
from models.registry import backbones_like

METADATA_KEY = "efficientsed"  # entry of our own checkpoints: how to build the model
METADATA = ("model_name", "seq_model_type", "seq_model_dim", "labels", "n_classes_weak")  # what it holds at least
PARTS = ("seq_model", "strong_head", "weak_head")  # of a detector, above the backbone
HEADS = ("strong_head", "weak_head")
_OWN_KEYS = r"(?=model\.|seq_model\.|strong_head\.|weak_head\.)"
_BLOCK = 1 << 20  # bytes
_OTHER_MODEL = "is it of another model? name it with --model_name, --seq_model_type and --seq_model_dim"
_MOST_CLASSES, _MOST_FEATURES = 100_000, 65_536  # far beyond any real model, and still built in no time


@dataclass
class LoadReport:
    """What a checkpoint did to a model; lists of state-dict keys."""

    source: str
    loaded: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)  # not in the file: left at their initialisation
    refused: dict[str, str] = field(default_factory=dict)  # in the file but not taken, with the reason
    never_trained: frozenset[str] = frozenset()  # those of `PARTS` that the file says no loss has reached

    @property
    def untrained(self) -> frozenset[str]:
        """Which of `PARTS` give noise: at their initialisation, at least in part, or never trained."""
        random = frozenset(part for part in PARTS for key in self.initialised if key.startswith(f"{part}."))
        return random | self.never_trained

    def __str__(self) -> str:
        parts = [f"{self.source}: {len(self.loaded)} entries loaded"]
        if self.initialised:
            parts.append(f"left at initialisation: {_summary(self.initialised)}")
        reasons: dict[str, list[str]] = {}
        for key, reason in self.refused.items():
            reasons.setdefault(reason, []).append(key)
        parts += [f"not taken ({reason}): {_summary(keys)}" for reason, keys in reasons.items()]
        return "; ".join(parts)


def _summary(keys: list[str]) -> str:
    """Keys in few words: those of one module are counted together once there are many."""
    if len(keys) <= 4:
        return ", ".join(keys)
    groups: dict[str, int] = {}
    for key in keys:
        groups[key.split(".")[0]] = groups.get(key.split(".")[0], 0) + 1
    return ", ".join(f"{name}.* ({count})" for name, count in groups.items())


def read_checkpoint(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict and metadata (empty for foreign files) of a checkpoint file.

    Raises UserError if the file is missing, unreadable, or holds anything but tensors and plain values.
    """
    path = Path(path)
    with reading(path, "the checkpoint"), path.open("rb"):
        pass
    if _is_program(path):
        raise UserError(
            f"checkpoint file '{path}' is an exported TorchScript program, which torch.jit.load runs: name the weights "
            "that it was made from, or an export for ONNX Runtime or OpenVINO (.onnx, .xml)"
        )
    if _is_compressed(path):
        raise UserError(f"checkpoint file '{path}' is compressed, which torch.save never does: unpack it, save it anew")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if reason.startswith("Weights only load failed"):  # torch goes on about how to run code from the file
            reason = "it holds other things than tensors and plain values"
        raise UserError(f"checkpoint file '{path}' cannot be read as weights: {reason[:200]}") from error
    if not isinstance(content, dict):
        raise UserError(f"checkpoint file '{path}': expected a state dict, got a {type(content).__name__}")
    state, metadata = content.get("state_dict", content), content.get(METADATA_KEY, {})
    for name, part in (("state_dict", state), (METADATA_KEY, metadata)):
        if not isinstance(part, dict):
            raise UserError(
                f"checkpoint file '{path}': expected a table in its entry '{name}', got a {type(part).__name__}"
            )
    if lacking := [key for key in METADATA if metadata and key not in metadata]:
        raise UserError(f"checkpoint file '{path}': its entry '{METADATA_KEY}' lacks {', '.join(lacking)}")
    state = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not state:
        raise UserError(f"checkpoint file '{path}' holds no tensors with names")
    size = path.stat().st_size
    problems = [f"weight {key!r:.80} is {found}" for key, value in state.items() if (found := _odd_weight(value, size))]
    problems += _odd_metadata(metadata) if metadata else []
    if problems:
        raise UserError(f"checkpoint file '{path}' is damaged or none of this project's: {problems[0]}")
    return state, metadata


def _odd_weight(value: Tensor, file_size: int) -> str | None:
    """Why a tensor of a file cannot be a weight: a few bytes can claim to be as many numbers as they like."""
    if value.layout != torch.strided or value.is_quantized or value.is_nested:
        return "sparse, quantised or nested; store it dense"
    if value.device.type != "cpu":
        return f"on the device {value.device}, without values"
    if value.numel() * value.element_size() > file_size:
        return f"of shape {tuple(value.shape)}, larger than its file"
    return None


def _odd_metadata(metadata: dict[str, Any]) -> list[str]:
    """What is wrong with the entry from which a model is built."""
    problems = []
    for name, may_be_none in (("model_name", False), ("seq_model_type", True)):
        if not isinstance(metadata[name], str) and not (may_be_none and metadata[name] is None):
            problems.append(f"{name} is {metadata[name]!r:.80}, expected text")
    for name, most in (("seq_model_dim", _MOST_FEATURES), ("n_classes_weak", _MOST_CLASSES)):
        value = metadata[name]
        if type(value) is not int or not 1 <= value <= most:
            problems.append(f"{name} is {value!r:.80}, expected a whole number from 1 to {most}")
    labels = metadata["labels"]
    if not isinstance(labels, (list, tuple)) or not 1 <= len(labels) <= _MOST_CLASSES:
        return [*problems, f"labels is {labels!r:.80}, expected a list of 1 to {_MOST_CLASSES} names"]
    problems += [f"label {label!r:.80} is not text that can be written" for label in labels if not _is_name(label)]
    untrained = metadata.get("untrained", ())
    if not isinstance(untrained, (list, tuple)) or not all(isinstance(part, str) for part in untrained):
        problems.append(f"untrained is {untrained!r:.80}, expected a list of names")
    return problems


def _is_name(label: object) -> bool:
    """Whether a label is text that files and terminals take: no NUL, no half of a surrogate pair."""
    return isinstance(label, str) and "\0" not in label and not any("\ud800" <= c <= "\udfff" for c in label)


def _is_compressed(path: Path) -> bool:
    """Whether a zip file holds packed entries, which may become any number of bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def _is_program(path: Path) -> bool:
    """Whether a file holds TorchScript: code beside the weights."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def canonical_key(key: str, key_map: tuple[tuple[str, str], ...] = ()) -> str:
    """Our name of a key of a released file: outer `net.` or `model.` off, then the backbone's own renaming."""
    key = re.sub(rf"^(?:net|model)\.{_OWN_KEYS}", "", key)
    for pattern, replacement in key_map:
        renamed, count = re.subn(pattern, replacement, key)
        if count:
            return renamed
    return key


def load_weights(model: nn.Module, path: Path | str) -> LoadReport:
    """Load a checkpoint file into a `SEDModel` and say what was loaded.

    Heads with another number of classes, and both heads when the model has a sequence model that the file lacks,
    stay at their initialisation; the classifier of a clip-wise file is not taken. Anything else that is missing,
    unexpected, of another shape or not finite raises UserError naming the keys.
    """
    state, metadata = read_checkpoint(path)
    report = load_state(model, state, str(path))
    report.never_trained = frozenset(metadata.get("untrained", ()))
    return report


def load_state(model: nn.Module, state: dict[str, Tensor], source: str) -> LoadReport:
    """Load a state dict with the key names of any known layout; see `load_weights`."""
    key_map = (*model.model.key_map, *getattr(model.seq_model, "key_map", ()))  # type: ignore[misc, union-attr]
    state = {canonical_key(key, key_map): value for key, value in state.items()}
    own = model.state_dict()
    report = LoadReport(source)
    lacks_sequence = any(k.startswith("seq_model.") for k in own) and not any(k.startswith("seq_model.") for k in state)
    taken: dict[str, Tensor] = {}
    for key, value in state.items():
        reason = _refusal(key, value, own, lacks_sequence)
        if reason is None:
            taken[key] = value
        else:
            report.refused[key] = reason
    optional: set[str] = set(getattr(model.model, "optional_keys", ()))
    for key in own.keys() - taken.keys():
        may_stay = key.startswith(HEADS) or (key.startswith("seq_model.") and lacks_sequence) or key in optional
        if may_stay:
            report.initialised.append(key)
    report.initialised.sort()
    _complain(own, taken, report, model)
    model.load_state_dict(taken, strict=False)
    report.loaded = sorted(taken)
    return report


def _refusal(key: str, value: Tensor, own: dict[str, Tensor], lacks_sequence: bool) -> str | None:
    """Why an entry of a file is left out although it is known; None if it is taken (or unknown)."""
    if re.match(r"(model\.)?classifier\.", key):
        return "classifier of the clip-wise model"
    if not key.startswith(HEADS):
        return None
    if lacks_sequence:
        return "the sequence model is new, so the heads are too"
    if key in own and own[key].shape[0] != value.shape[0]:
        return f"{value.shape[0]} classes in the file, {own[key].shape[0]} in the model"
    return None


def _complain(own: dict[str, Tensor], taken: dict[str, Tensor], report: LoadReport, model: nn.Module) -> None:
    missing = sorted(own.keys() - taken.keys() - set(report.initialised))
    unexpected = sorted(taken.keys() - own.keys())
    shapes = [
        f"{key} {tuple(taken[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(own.keys() & taken.keys())
        if own[key].shape != taken[key].shape
    ]
    broken = sorted(key for key, value in taken.items() if not _finite(value))
    problems = [
        f"{kind}: {', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
        for kind, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("other shape", shapes),
            ("values that are not finite", broken),
        )
        if keys
    ]
    if problems:
        fitting = _fitting_backbones(model, taken) if shapes else []
        advice = f"; its weights are of {' or '.join(fitting)}: --model_name={fitting[0]}" if fitting else ""
        if not advice and (missing or unexpected or shapes):
            advice = f"; {_OTHER_MODEL}"
        raise UserError(f"checkpoint '{report.source}' does not fit the model: {'; '.join(problems)}{advice}")


def _fitting_backbones(model: nn.Module, taken: dict[str, Tensor]) -> list[str]:
    """Backbones of the model's family that the weights are of."""
    prefix = "model."
    shapes = {key: tuple(value.shape) for key, value in taken.items() if key.startswith(prefix)}
    return backbones_like(getattr(model, "model_name", ""), {key.removeprefix(prefix): s for key, s in shapes.items()})


def _finite(value: Tensor) -> bool:
    return bool(value.sum().isfinite() or value.isfinite().all())  # a sum is quick, and finite for sound weights


def fetch(card: Card, folder: Path = RESOURCES) -> Path:
    """Path of a card's file in `folder`, downloaded first if it is not there.

    The download shows its progress, continues where an earlier one broke off, and appears under its final name
    only when it is whole. Raises UserError with the address when there is no network, or no way to keep the file.
    """
    target = folder / card.file_name
    if target.is_file():
        return target
    part = target.with_suffix(target.suffix + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locks.held(target, wait=True):  # two at once would mix their blocks
            if not target.is_file():
                _download(card.url, part)
                os.replace(part, target)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        words = one_line(reason) if isinstance(reason, OSError) else str(error)
        raise UserError(
            f"cannot download '{card.name}' ({words}): fetch {card.url} on a machine with internet "
            f"and put it at {target}, or name a file with --checkpoint"
        ) from error
    return target


def _download(url: str, part: Path) -> None:
    from tqdm import tqdm

    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is left to fetch: the part is whole
            return
        raise
    with response:
        resumed = response.status == 206
        total = int(response.headers.get("Content-Length") or 0) + (start if resumed else 0)
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(
                total=total or None,
                initial=start if resumed else 0,
                unit="B",
                unit_scale=True,
                desc=part.stem,
                file=sys.stderr,
            ) as bar,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
    if total and part.stat().st_size != total:
        raise ConnectionError(f"{part.stat().st_size} of {total} bytes arrived; run again to continue")
