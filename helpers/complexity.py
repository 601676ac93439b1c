"""What a model costs: parameters, multiplications, activation memory, receptive field, throughput.

A model is traced with fake tensors, which have shapes and no content, so that even the largest is counted in a
second and without memory for its weights. One multiply-accumulate (MAC) is one multiplication and one addition.
Counted are, for one clip:

- convolutions: outputs x inputs per output (kernel x channels per group);
- linear layers and other matrix products: rows x columns x inner dimension, in every frame;
- attention: both products of queries, keys and values, T x T x D each;
- recurrent layers: G D (C + D) per frame, layer and direction, for C features in, D out and G gates (GRU 3, LSTM 4,
  plain 1), and H D more for an LSTM that projects its H states to D;
- scans: the multiplications of the recurrence that they replace (method `macs` of the scan's module), so the
  figure does not depend on how the scan is computed.

A model with another operation that multiplies (a Fourier transform, a kernel of another package)
has an unknown number of MACs, never too small a one.

Not counted are what costs little beside them: norms, activations, gates, softmax, resampling, and the mel front end.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import platform
import re
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from errors import UserError

N_SAMPLES = 160_000  # of one clip: 10 s at 16 kHz
aten = torch.ops.aten


@dataclass(frozen=True)
class Window:
    """One convolution: kernel, stride and dilation, each (frequency, time)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]


@dataclass
class Cost:
    """Cost of one part of a model for one clip."""

    parameters: int = 0
    macs: collections.Counter[str] = field(default_factory=collections.Counter)  # by kind, see the module
    peak_bytes: int = 0  # largest sum of the tensors alive at once, input and output with them, weights not
    windows: list[Window] = field(default_factory=list)  # convolutions in the order in which they ran
    unknown: set[str] = field(default_factory=set)  # operations that multiply, of which we do not know how often

    @property
    def total_macs(self) -> int | None:
        """MACs of all kinds; None where an operation is unknown."""
        return None if self.unknown else sum(self.macs.values())


@dataclass
class Complexity:
    """Cost of the three parts of a model for one clip."""

    backbone: Cost
    sequence: Cost
    heads: Cost

    @property
    def parts(self) -> dict[str, Cost]:
        """The parts by name."""
        return {"backbone": self.backbone, "sequence": self.sequence, "heads": self.heads}

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return sum(part.parameters for part in self.parts.values())

    @property
    def macs(self) -> int | None:
        """MACs of the whole model; None where an operation is unknown."""
        totals = [part.total_macs for part in self.parts.values()]
        known = [total for total in totals if total is not None]
        return sum(known) if len(known) == len(totals) else None

    @property
    def unknown(self) -> set[str]:
        """Operations that multiply, of which we do not know how often."""
        return set().union(*(part.unknown for part in self.parts.values()))

    @property
    def peak_bytes(self) -> int:
        """Peak activation memory of the whole model in float32."""
        return max(part.peak_bytes for part in self.parts.values())

    @property
    def receptive_field(self) -> tuple[int | None, int | None]:
        """Mel bins and mel frames that one output frame sees; None: all of the clip.

        Attention and recurrence see all frames. Means over the clip (squeeze-and-excitation) are left out.
        """
        if _sees_all(self.backbone):
            return None, None
        bins, frames = receptive_field([*self.backbone.windows, *self.sequence.windows])
        return bins, None if _sees_all(self.sequence) else frames


def _sees_all(cost: Cost) -> bool:
    return bool({"attention", "recurrence"} & cost.macs.keys() or cost.unknown)


def receptive_field(windows: Sequence[Window]) -> tuple[int, int]:
    """Inputs that one output of a row of convolutions sees, (frequency, time); first convolution first."""
    sizes = []
    for axis in (0, 1):
        size = 1
        for w in reversed(windows):
            size = (size - 1) * w.stride[axis] + w.dilation[axis] * (w.kernel[axis] - 1) + 1
        sizes.append(size)
    return sizes[0], sizes[1]


# ---- counting -------------------------------------------------------------------------------------------------


def _convolution(args: Sequence[Any], out: Tensor) -> int:
    return out.numel() * args[1][0].numel()  # weight [out, in / groups, *kernel]


def _product(args: Sequence[Any], out: Tensor) -> int:
    return out.numel() * args[-2].shape[-1]  # ..., left [..., inner], right


def _attention(args: Sequence[Any], out: Any) -> int:
    query, key, value = args[:3]  # [B, H, T, E], [B, H, S, E], [B, H, S, Ev]
    return query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


RULES: dict[Any, tuple[str, Callable[[Sequence[Any], Any], int]]] = {
    aten.convolution: ("convolution", _convolution),
    aten.mm: ("linear", _product),
    aten.mv: ("linear", _product),
    aten.addmm: ("linear", _product),
    aten.bmm: ("attention", _product),
    aten.baddbmm: ("attention", _product),
    aten._scaled_dot_product_flash_attention_for_cpu: ("attention", _attention),
}


# Names of operations that multiply; those without a rule above are unknown.
_MULTIPLIES = re.compile(r"fft|rnn|lstm|gru|conv(?!ert)|m[mv]$|addr|dot|attention|einsum|linear|scan|cdist")
_RESAMPLES = "upsample"


def _is_unknown(func: Any) -> bool:
    """Whether an operation without a rule may cost much: by its name, or because it is not one of PyTorch's."""
    space, _, name = func.name().partition("::")
    name = name.partition(".")[0]
    if space not in ("aten", "prim", "prims"):
        return True
    return _RESAMPLES not in name and _MULTIPLIES.search(name) is not None


class CostCounter(TorchDispatchMode):
    """While active, adds the cost of every operation to `cost`.

    Args:
        model: its weights do not count as activations.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.cost = Cost()
        self.counting = True  # False inside a module that is counted as a whole
        self._live_bytes = 0
        weights = itertools.chain(model.parameters(), model.buffers())
        self._known = {weight.untyped_storage()._cdata for weight in weights}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        rule = RULES.get(func.overloadpacket)
        if rule is not None and self.counting:
            kind, macs = rule
            self.cost.macs[kind] += macs(args, out)
            if kind == "convolution":
                self.cost.windows.append(_window(*args))
        elif self.counting and _is_unknown(func):
            self.cost.unknown.add(func.name())
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.follow(tensor)
        return out

    def follow(self, tensor: Tensor) -> None:
        """Count the memory behind a tensor until it is released."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self._live_bytes += storage.nbytes()
        self.cost.peak_bytes = max(self.cost.peak_bytes, self._live_bytes)
        weakref.finalize(storage, self._release, storage._cdata, storage.nbytes())

    def _release(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self._live_bytes -= n_bytes


def _window(_: Tensor, weight: Tensor, __: Tensor | None, stride: Any, ___: Any, dilation: Any, *____: Any) -> Window:
    def pair(values: Iterable[int], ones: int) -> tuple[int, int]:
        first, second = (*[1] * ones, *values)
        return first, second

    missing = 4 - weight.ndim  # conv1d has no frequency
    return Window(pair(weight.shape[2:], missing), pair(stride, missing), pair(dilation, missing))


_GATES = {"GRU": 3, "LSTM": 4, "RNN_TANH": 1, "RNN_RELU": 1}  # by the mode of recurrent layers
_CELL_GATES = {nn.GRUCell: 3, nn.LSTMCell: 4, nn.RNNCell: 1}


def _count_as_a_whole(model: nn.Module, counter: CostCounter) -> None:
    """Make the modules that have a formula add its result to the counter, instead of what they compute."""
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            # its loop over the frames would take seconds to trace
            module.forward = functools.partial(_recurrent_stand_in, counter, module)  # type: ignore
        elif type(module) in _CELL_GATES:
            _count_by(module, counter, functools.partial(_cell_macs, module))  # type: ignore[arg-type]
        elif callable(getattr(module, "macs", None)):
            _count_by(module, counter, module.macs)  # type: ignore[arg-type]


def _count_by(module: nn.Module, counter: CostCounter, macs: Callable[..., int]) -> None:
    module.register_forward_pre_hook(functools.partial(_enter, counter, macs))
    module.register_forward_hook(functools.partial(_leave, counter))


def _enter(counter: CostCounter, macs: Callable[..., int], _: nn.Module, inputs: tuple[Any, ...]) -> None:
    counter.cost.macs["recurrence"] += macs(*inputs)
    counter.counting = False


def _leave(counter: CostCounter, *_: Any) -> None:
    counter.counting = True


def _cell_macs(cell: nn.RNNCellBase, x: Tensor, *_: Any) -> int:
    """MACs of one step of a recurrent cell on [B, C] or [C]."""
    gates = _CELL_GATES[type(cell)]
    return x.shape[:-1].numel() * gates * cell.hidden_size * (cell.input_size + cell.hidden_size)


def _recurrent_stand_in(counter: CostCounter, layers: nn.RNNBase, x: Tensor, _: Any = None) -> tuple[Tensor, Any]:
    """Count recurrent layers on [B, T, C] (or [T, B, C], or [T, C]); return frames and states of the right shapes."""
    n_directions, H = 2 if layers.bidirectional else 1, layers.hidden_size
    D = layers.proj_size or H
    frames = x.shape[:-1]
    for layer in range(layers.num_layers):
        C = layers.input_size if layer == 0 else n_directions * D
        macs = _GATES[layers.mode] * H * (C + D) + H * layers.proj_size
        counter.cost.macs["recurrence"] += frames.numel() * n_directions * macs
        x = x.new_empty(*frames, n_directions * D)
    batch = () if len(frames) == 1 else (frames[0 if layers.batch_first else 1],)
    states = [x.new_empty(layers.num_layers * n_directions, *batch, size) for size in (D, H)]
    return x, tuple(states) if layers.mode == "LSTM" else states[0]


def count(modules: Sequence[nn.Module], forward: Callable[..., Any], *inputs: Tensor) -> tuple[Cost, Any]:
    """Cost of `forward(*inputs)`, which uses the given modules, and its result."""
    together = nn.ModuleList(modules)
    counter = CostCounter(together)
    _count_as_a_whole(together, counter)
    for tensor in inputs:
        counter.follow(tensor)
    with counter:
        output = forward(*inputs)
    counter.cost.parameters = sum(p.numel() for p in together.parameters())
    return counter.cost, output


def analyse(build: Callable[[], Any], n_samples: int = N_SAMPLES) -> Complexity:
    """Cost of a model for one clip.

    Args:
        build: returns the model (models.SEDModel); called once, under fake tensors, so it must not load weights.
        n_samples: length of the clip at 16 kHz.
    """
    with FakeTensorMode(), torch.no_grad():
        model = build().eval()
        mel = model.mel_forward(torch.zeros(1, n_samples))
        backbone, embedding = count([model.model], model.embed, mel)
        sequence, features = count([model.seq_model], model.seq_model, embedding)
        heads = model.strong_head, model.weak_head
        return Complexity(backbone, sequence, count(heads, lambda f: [head(f) for head in heads], features)[0])


def deepspeed_macs(model: nn.Module, mel: Tensor) -> int:
    """MACs of `model(mel)` as DeepSpeed's profiler counts them; raises UserError if it is not installed."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # its messages are no part of our table
            from deepspeed.profiling.flops_profiler import get_model_profile
    except ImportError:
        raise UserError("DeepSpeed is not installed: pip install deepspeed") from None
    _, macs, _ = get_model_profile(model, args=[mel], print_profile=False, detailed=False, as_string=False)
    return int(macs)


def clips_per_second(model: nn.Module, mel: Tensor, min_seconds: float = 2.0) -> float:
    """Throughput of `model(mel)`: clips per second over the fastest half of the passes within `min_seconds`."""

    def synchronize() -> None:
        if mel.device.type == "cuda":
            torch.cuda.synchronize(mel.device)

    times: list[float] = []
    with torch.inference_mode():
        model(mel)  # first pass: memory is taken, kernels are chosen
        while sum(times) < min_seconds or len(times) < 3:
            synchronize()
            start = time.perf_counter()
            model(mel)
            synchronize()
            times.append(time.perf_counter() - start)
    fastest = sorted(times)[: (len(times) + 1) // 2]
    return mel.shape[0] * len(fastest) / sum(fastest)


def processor_name() -> str:
    """Name of this machine's processor, for figures that depend on it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
