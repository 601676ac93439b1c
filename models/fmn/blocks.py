"""Building blocks of the frame-wise MobileNet: inverted residuals with squeeze-and-excitation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`, at least `divisor` and never 10 % below `value`.

    The rounding of channel counts in MobileNetV2/V3 (Howard et al. 2019).
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


@dataclass(frozen=True)
class BlockConfig:
    """One row of the network's table; channel counts are those of width 1."""

    kernel: int
    expanded: int  # channels inside the block
    out: int  # channels behind the block
    squeeze: bool  # whether the block has squeeze-and-excitation
    activation: type[nn.Module]
    freq_stride: int
    time_stride: int


class ConvUnit(nn.Sequential):
    """Convolution without bias, batch norm, activation; [B, in, F, T] -> [B, out, F / stride, T / stride]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: tuple[int, int] = (1, 1),
        groups: int = 1,
        activation: type[nn.Module] | None = None,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01),
        ]
        if activation is not None:
            layers.append(activation(inplace=True))
        super().__init__(*layers)


class SqueezeExcitation(nn.Module):
    """Scale the channels of [B, C, F, T] by gates computed from their means over the whole clip."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, squeezed)
        self.fc2 = nn.Linear(squeezed, channels)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.fc2(self.activation(self.fc1(x.mean((2, 3))))).sigmoid()
        return x * gates[:, :, None, None]


class ConcurrentSqueezeExcitation(nn.Module):
    """Holds the channel-wise squeeze-and-excitation under the published key `conc_se_layers.0`."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.ModuleList([SqueezeExcitation(channels, squeezed)])

    def forward(self, x: Tensor) -> Tensor:
        return self.conc_se_layers[0](x)


class InvertedResidual(nn.Module):
    """Expand (1x1), filter each channel, excite, project (1x1); residual where the shape stays the same."""

    def __init__(self, in_channels: int, config: BlockConfig, width: float) -> None:
        super().__init__()
        expanded, out = make_divisible(config.expanded * width), make_divisible(config.out * width)
        stride = (config.freq_stride, config.time_stride)
        self.residual = stride == (1, 1) and in_channels == out
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(ConvUnit(in_channels, expanded, 1, activation=config.activation))
        layers.append(
            ConvUnit(expanded, expanded, config.kernel, stride, groups=expanded, activation=config.activation)
        )
        if config.squeeze:
            layers.append(ConcurrentSqueezeExcitation(expanded, make_divisible(expanded // 4)))
        layers.append(ConvUnit(expanded, out, 1))
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        return x + y if self.residual else y
