"""The 3D U-Net of the semi-supervised literature (BraTS19), 5.884 M parameters.

Two 3³ convolutions a level at n … 16 n channels, each followed by InstanceNorm (no learned scale) and ReLU;
max-pooling down; trilinear upsampling up, concatenated behind the skip and reduced by the level's first
convolution. Dropout 0.3, by element, at the centre and before the output convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_crln.nn.network import NetworkOutput, kaiming_
from napari_crln.types import ShapeDHW

_LEVELS = 5
_DROPOUT = 0.3


class UNet3D(nn.Module):
    """3D U-Net with `filters` channels at full resolution.

    Patches should exceed 16 voxels along some axis: a bottleneck of one voxel has no variance to normalise by.

    Parameters
    ----------
    classes : C, background included
    in_channels : channels of the input
    filters : n, doubled at each of four levels
    dropout : Dropout(0.3) at the centre and before the output convolution
    """

    stride: ShapeDHW = (16, 16, 16)

    def __init__(self, classes: int, in_channels: int = 1, filters: int = 16, dropout: bool = True) -> None:
        super().__init__()
        widths = [filters * 2**level for level in range(_LEVELS)]
        self.stage_channels = {stage: widths[_LEVELS - 1 - stage] for stage in (1, 2, 3, 4)}
        inputs = [in_channels, *widths[:-1]]
        self.encoder = nn.ModuleList(_two_convolutions(k, n) for k, n in zip(inputs, widths, strict=True))
        self.pool = nn.MaxPool3d(kernel_size=2)
        self.upsample = nn.Upsample(scale_factor=2, mode="trilinear")
        self.decoder = nn.ModuleList(_two_convolutions(3 * n, n) for n in self.stage_channels.values())
        self.dropout = nn.Dropout(_DROPOUT) if dropout else nn.Identity()
        self.output = nn.Conv3d(filters, classes, kernel_size=1)
        self.apply(kaiming_)

    def forward(self, x_B1DHW: Tensor) -> NetworkOutput:
        """(B, in_channels, D, H, W), each size a multiple of 16, to logits and decoder features."""
        skips = []
        h = x_B1DHW
        for convolutions in list(self.encoder)[:-1]:
            skips.append(convolutions(h))
            h = self.pool(skips[-1])
        h = self.dropout(self.encoder[-1](h))
        stages = {}
        for stage, convolutions in enumerate(self.decoder, start=1):
            h = stages[stage] = convolutions(torch.cat([skips.pop(), self.upsample(h)], dim=1))
        return NetworkOutput(self.output(self.dropout(h)), stages)


class _InstanceNorm(nn.GroupNorm):
    """InstanceNorm as one group a channel, as torch's own InstanceNorm3d would undo channels_last_3d on a CPU; on CUDA both do.

    In the precision that comes in: autocast would return float32, twice the memory traffic. The kernels add up in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W), normalised sample by sample and channel by channel."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x)


def _two_convolutions(k: int, n: int) -> nn.Sequential:
    return nn.Sequential(*_activated(k, n), *_activated(n, n))


def _activated(k: int, n: int) -> list[nn.Module]:
    convolution = nn.Conv3d(k, n, kernel_size=3, padding=1)
    return [convolution, _InstanceNorm(n, n, affine=False), nn.ReLU(inplace=True)]
