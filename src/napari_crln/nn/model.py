"""Student and teacher are the same module: a backbone, DIM where the method uses clues, a head where it uses CPS."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_crln import config
from napari_crln.nn.build import build_network
from napari_crln.nn.dim import Clues, DynamicInteraction


class Output(NamedTuple):
    """What the model says of a batch."""

    #: z, (B, C, D, H, W).
    logits_BCDHW: Tensor
    #: Decoder features by stage, {s: (B, K_s, d, h, w)}.
    stages: dict[int, Tensor]


class RepresentationHead(nn.Module):
    """3×3×3 convolution → LayerNorm over channels → ReLU → 1×1×1 to width F (paper, section 3.3).

    CPS looks at a few thousand voxels of a batch, so the head is computed at those voxels alone: their
    neighbourhoods are gathered and multiplied by the convolution's weights. A norm that looks at one voxel at
    a time makes this exactly the dense head, and no full-resolution tensor is made.
    """

    def __init__(self, channels: int, width: int, hidden: int | None) -> None:
        super().__init__()
        hidden = hidden or channels
        self.conv = nn.Conv3d(channels, hidden, 3, padding=1)
        self.norm = nn.LayerNorm(hidden)
        self.project = nn.Linear(hidden, width)

    def forward(self, features_BKDHW: Tensor, index_n: Tensor) -> Tensor:
        """Representations (n, F) of the voxels at flat indices (n,) into (B, D, H, W)."""
        patches = gather_neighbourhoods(features_BKDHW, index_n).flatten(1)
        weight = self.conv.weight.permute(2, 3, 4, 1, 0).flatten(0, 3)
        assert self.conv.bias is not None
        hidden: Tensor = self.norm(patches @ weight + self.conv.bias)
        representations: Tensor = self.project(hidden.relu())
        return representations


def gather_neighbourhoods(features_BKDHW: Tensor, index_n: Tensor) -> Tensor:
    """3×3×3 neighbourhoods (n, 27, K) of voxels at flat indices into (B, D, H, W); zero beyond the border.

    Neighbourhoods overlap, so their gradients meet: `embedding` adds them up in a fixed order on a CPU, where
    indexing adds by atomics, whose order differs from run to run.
    """
    space = features_BKDHW.shape[2:]
    sample, *voxel = _unravel(index_n, space)
    near = torch.arange(-1, 2, device=index_n.device)
    flat, inside = sample.unsqueeze(1), torch.ones_like(index_n, dtype=torch.bool).unsqueeze(1)
    for at, offset, size in zip(voxel, torch.cartesian_prod(near, near, near).unbind(1), space, strict=True):
        neighbour = at.unsqueeze(1) + offset
        inside = inside & (neighbour >= 0) & (neighbour < size)
        flat = flat * size + neighbour.clamp(0, size - 1)
    return F.embedding(flat, features_BKDHW.movedim(1, -1).flatten(0, 3)) * inside.unsqueeze(-1)


def _unravel(index_n: Tensor, space: torch.Size) -> list[Tensor]:
    """(B, D, H, W) of flat indices; torch's own would bring the sizes to the device, and wait for it."""
    parts: list[Tensor] = []
    for size in reversed(space):
        parts.insert(0, index_n % size)
        index_n = index_n.div(size, rounding_mode="floor")
    return [index_n, *parts]


class CrlnModel(nn.Module):
    """Backbone with DIM and representation head, each only where the method uses it."""

    def __init__(
        self, backbone: nn.Module, dim: DynamicInteraction | None, head: RepresentationHead | None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.dim = dim
        self.head = head

    def forward(self, x_B1DHW: Tensor) -> Output:
        """Logits and decoder features."""
        logits, stages = self.backbone(x_B1DHW)
        return Output(logits, stages)

    def clues(self, output: Output, count: int | None = None) -> Clues:
        """DIM on the first `count` samples of a batch (all: none)."""
        assert self.dim is not None
        d, h, w = output.logits_BCDHW.shape[2:]
        clues: Clues = self.dim({s: f[:count] for s, f in output.stages.items()}, (d, h, w))
        return clues


def build_model(settings: config.RunConfig, classes: int, in_channels: int = 1) -> CrlnModel:
    """The model that a configuration asks for; weights follow torch's seed."""
    backbone = build_network(settings.network, classes, in_channels)
    method = settings.method
    channels: dict[int, int] = backbone.stage_channels
    full = max(channels)
    dim = head = None
    if method.uses_clues:
        factors = {stage: 2 ** (full - stage) for stage in channels}
        dim = DynamicInteraction(classes, channels, factors, method.dim)
    if method.uses_cps:
        head = RepresentationHead(channels[full], method.dim.width, method.cps.hidden)
    return CrlnModel(backbone, dim, head)
