"""What the method asks of a network: logits, and the decoder's features on the way to them.

Stages count from coarse to fine: 1 = 1/8, 2 = 1/4, 3 = 1/2, 4 = full resolution. Stage 4 is what enters the
dropout and the 1×1×1 output convolution. The method reads stages by number and widths from `stage_channels`, so
any module with these three members can take the place of V-Net: no base class, no registry.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from napari_crln.errors import ConfigError
from napari_crln.types import ShapeDHW


class NetworkOutput(NamedTuple):
    """Logits (B, C, D, H, W), and decoder features (B, K_s, D_s, H_s, W_s) by stage s = 1 … 4."""

    logits_BCDHW: Tensor
    stages: dict[int, Tensor]


@runtime_checkable
class SegmentationNetwork(Protocol):
    """Any `nn.Module` with these members; see the module's docstring."""

    @property
    def stride(self) -> ShapeDHW:
        """Voxels that one voxel of the bottleneck spans: it must divide the patch."""
        ...

    @property
    def stage_channels(self) -> dict[int, int]:
        """Width K_s of each decoder stage."""
        ...

    def __call__(self, x_B1DHW: Tensor) -> NetworkOutput:
        """Input (B, in_channels, D, H, W), any float dtype."""
        ...


def check_patch(patch: ShapeDHW, stride: ShapeDHW) -> None:
    """Refuse a patch that the stride does not divide, and name the nearest that fit.

    Raises
    ------
    ConfigError : with the nearest valid sizes, below and above, of every axis at fault
    """
    at_fault = [
        f"{axis}: {_neighbours(size, step)}"
        for axis, size, step in zip("DHW", patch, stride, strict=True)
        if size < 1 or size % step
    ]
    if at_fault:
        raise ConfigError(
            f"patch {' × '.join(map(str, patch))}",
            f"the network halves it, so it must be a multiple of {' × '.join(map(str, stride))}",
            f"Nearest valid sizes: {'; '.join(at_fault)}",
            "batches.patch",
        )


def _neighbours(size: int, step: int) -> str:
    below = size // step * step
    return f"{below} or {below + step}" if below > 0 else f"{step}"


def kaiming_(module: nn.Module) -> None:
    """Kaiming-normal convolution weights, zero biases; for `nn.Module.apply`."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
