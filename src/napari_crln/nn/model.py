"""Student and teacher are the same module: a backbone, DIM where the method uses clues, a head where it uses CPS."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from napari_crln import config
from napari_crln.nn.dim import Clues, DynamicInteraction
from napari_crln.nn.network import build_network


class Output(NamedTuple):
    """What the model says of a batch."""

    #: z, (B, C, D, H, W).
    logits_BCDHW: Tensor
    #: Decoder features by stage, {s: (B, K_s, d, h, w)}.
    stages: dict[int, Tensor]


class RepresentationHead(nn.Module):
    """3×3×3 convolution → BatchNorm → ReLU → 1×1×1 to width F (paper, section 3.3).

    The 1×1×1 convolution is a linear map of each voxel, so it is applied only to the voxels that the loss
    samples and to class means: `forward` stops before it, `project` is it. Exact, and the (B, F, D, H, W)
    tensor never exists.
    """

    def __init__(self, channels: int, width: int, hidden: int | None) -> None:
        super().__init__()
        hidden = hidden or channels
        self.hidden = nn.Sequential(
            nn.Conv3d(channels, hidden, 3, padding=1, bias=False), nn.BatchNorm3d(hidden), nn.ReLU()
        )
        self.project = nn.Linear(hidden, width)

    def forward(self, features_BKDHW: Tensor) -> Tensor:
        """Hidden representations, (B, hidden, D, H, W)."""
        return self.hidden(features_BKDHW)  # type: ignore[no-any-return]


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
        size = output.logits_BCDHW.shape[2:]
        return self.dim({s: h[:count] for s, h in output.stages.items()}, (size[0], size[1], size[2]))


def build_model(settings: config.RunConfig, classes: int, in_channels: int = 1) -> CrlnModel:
    """The model that a configuration asks for; weights follow torch's seed."""
    backbone = build_network(settings.network, classes, in_channels)
    method = settings.method
    channels = backbone.stage_channels
    full = max(channels)
    dim = head = None
    if method.uses_clues:
        factors = {stage: 2 ** (full - stage) for stage in channels}
        dim = DynamicInteraction(classes, channels, factors, method.dim)
    if method.uses_cps:
        head = RepresentationHead(channels[full], method.dim.width, method.cps.hidden)
    return CrlnModel(backbone, dim, head)
