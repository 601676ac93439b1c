"""Batch norm over the clips of all processes, on any device; torch's own version works on GPUs only."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of the whole global batch, gradients included.

    With one process it is plain batch norm. All processes must have equally many values per channel.
    """

    def forward(self, x: Tensor) -> Tensor:
        several = self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if not several:
            return super().forward(x)
        world = dist.get_world_size()
        axes = (0, 2, 3)
        mean = all_reduce(x.mean(axes)) / world  # [C]
        centred = x - mean[:, None, None]
        variance = all_reduce((centred * centred).mean(axes)) / world
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        with torch.no_grad():
            n = world * x.numel() / x.shape[1]
            momentum = self.momentum if self.momentum is not None else 0.0
            self.running_mean += momentum * (mean - self.running_mean)
            self.running_var += momentum * (variance * n / (n - 1) - self.running_var)
            self.num_batches_tracked += 1
        scale = (variance + self.eps).rsqrt() * self.weight
        return centred * scale[:, None, None] + self.bias[:, None, None]


def synchronise(model: nn.Module, device: str) -> None:
    """Make all 2-d batch norms below a model synchronised ones, in place; weights, statistics and names stay.

    Args:
        model: is not a batch norm itself.
        device: `cuda`, where torch's own is faster, or another.
    """
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if type(module) is not nn.BatchNorm2d:
                continue
            if device == "cuda":
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(module))
            else:
                module.__class__ = SyncedBatchNorm2d
