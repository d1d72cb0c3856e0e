"""The V-Net of the semi-supervised literature (UA-MT and all that followed), 9.449 M parameters.

Against the V-Net of Milletari et al. (2016): 3³ convolutions for 5³, ReLU for PReLU, BatchNorm, no residual
connection inside a level, and skips that are *added* to the upsampled features, not concatenated.

level        channels  convs   resolution          decoder stage
encoder 1    n         1       1                   4  (1 conv)
encoder 2    2 n       2       1/2                 3  (2 convs)
encoder 3    4 n       3       1/4                 2  (3 convs)
encoder 4    8 n       3       1/8                 1  (3 convs)
bottleneck   16 n      3       1/16                -
"""

from __future__ import annotations

from torch import Tensor, nn

from napari_crln.nn.network import NetworkOutput, kaiming_
from napari_crln.types import ShapeDHW

_LEVELS = 5
_ENCODER_CONVS = (1, 2, 3, 3, 3)
_DECODER_CONVS = (3, 3, 2, 1)
_DROPOUT = 0.5


class VNet(nn.Module):
    """V-Net with `filters` channels at full resolution.

    Parameters
    ----------
    classes : C, background included
    in_channels : channels of the input
    filters : n, doubled at each of four levels
    dropout : Dropout3d(0.5) after the bottleneck and before the output convolution
    """

    stride: ShapeDHW = (16, 16, 16)

    def __init__(self, classes: int, in_channels: int = 1, filters: int = 16, dropout: bool = True) -> None:
        super().__init__()
        widths = [filters * 2**level for level in range(_LEVELS)]
        self.stage_channels = {stage: widths[_LEVELS - 1 - stage] for stage in (1, 2, 3, 4)}
        inputs = [in_channels, *widths[1:]]
        self.encoder = nn.ModuleList(
            _convolutions(k, n, convs) for k, n, convs in zip(inputs, widths, _ENCODER_CONVS, strict=True)
        )
        self.down = nn.ModuleList(_down(n) for n in widths[:-1])
        self.up = nn.ModuleList(_up(n) for n in reversed(widths[1:]))
        self.decoder = nn.ModuleList(
            _convolutions(n, n, convs)
            for n, convs in zip(self.stage_channels.values(), _DECODER_CONVS, strict=True)
        )
        self.dropout = nn.Dropout3d(_DROPOUT) if dropout else nn.Identity()
        self.output = nn.Conv3d(filters, classes, kernel_size=1)
        self.apply(kaiming_)

    def forward(self, x_B1DHW: Tensor) -> NetworkOutput:
        """(B, in_channels, D, H, W), each size a multiple of 16, to logits and decoder features."""
        skips = []
        h = x_B1DHW
        for convolutions, down in zip(self.encoder, self.down, strict=False):
            skips.append(convolutions(h))
            h = down(skips[-1])
        h = self.dropout(self.encoder[-1](h))
        stages = {}
        for stage, (up, convolutions) in enumerate(zip(self.up, self.decoder, strict=True), start=1):
            h = stages[stage] = convolutions(up(h) + skips.pop())
        return NetworkOutput(self.output(self.dropout(h)), stages)


def _convolutions(k: int, n: int, convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(convs):
        layers += _activated(nn.Conv3d(n if index else k, n, kernel_size=3, padding=1), n)
    return nn.Sequential(*layers)


def _down(n: int) -> nn.Sequential:
    return nn.Sequential(*_activated(nn.Conv3d(n, 2 * n, kernel_size=2, stride=2), 2 * n))


def _up(n: int) -> nn.Sequential:
    return nn.Sequential(*_activated(nn.ConvTranspose3d(n, n // 2, kernel_size=2, stride=2), n // 2))


def _activated(convolution: nn.Module, n: int) -> list[nn.Module]:
    return [convolution, nn.BatchNorm3d(n), nn.ReLU(inplace=True)]
