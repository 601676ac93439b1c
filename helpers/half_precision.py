"""bfloat16 training on a CPU: depthwise convolutions whose backward pass does not fall onto slow paths.

oneDNN has no fast bfloat16 kernels for two gradients of depthwise convolutions, and takes 4 to 20 times as long for
them as in float32: that of the input where the stride is above 1, and that of the weight where the kernel is 5 x 5.
These two are computed in float32; all the rest stays in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _DepthwiseFunction(torch.autograd.Function):
    """conv2d of bfloat16 tensors with the mixed backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, conv: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.conv = conv
        return torch.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        conv: nn.Conv2d = ctx.conv
        fixed = (None, conv.stride, conv.padding, conv.dilation, False, (0, 0), conv.groups)

        def one(which: int, in_float32: bool) -> Tensor | None:
            if not ctx.needs_input_grad[which]:
                return None
            tensors = [t.float() if in_float32 else t for t in (gradients[0], x, weight)]
            mask = [which == 0, which == 1, False]
            return torch.ops.aten.convolution_backward(*tensors, *fixed, mask)[which].to(x.dtype)

        return one(0, max(conv.stride) > 1), one(1, max(conv.kernel_size) > 3), None


class MixedDepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution; under bfloat16 autocast on a CPU its backward pass is the mixed one."""

    def forward(self, x: Tensor) -> Tensor:
        half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
        if not (half and x.device.type == "cpu" and torch.is_grad_enabled()):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return _DepthwiseFunction.apply(x.bfloat16(), self.weight.bfloat16(), self)


def avoid_slow_gradients(model: nn.Module) -> int:
    """Let the depthwise convolutions of a model that have slow gradients compute them in float32, in place.

    Returns:
        How many there are.
    """
    count = 0
    for module in model.modules():
        if type(module) is not nn.Conv2d or not 1 < module.groups == module.in_channels or module.bias is not None:
            continue
        if max(module.stride) > 1 or max(module.kernel_size) > 3:
            module.__class__ = MixedDepthwiseConv2d
            count += 1
    return count
