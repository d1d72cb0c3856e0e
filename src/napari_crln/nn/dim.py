"""Dynamic Interaction Module: learnable prototypes meet the voxels of decoder stages and give the clue map M(x).

What is special against a textbook cross-attention decoder (paper, section 3.2; docs/concepts/method.md, DIM):

- queries are class prototypes that live across images, so they carry what the labelled volumes taught;
- the scores *before* the softmax are kept: reshaped to space they are the proximity maps;
- a map head turns R proximity maps a class into one signed, logit-like map a class, with weights shared
  between classes, then lets the classes interact;
- no weight depends on the size of the input.

Keys and values are linear in the tokens, so their projections are folded into the few queries and into the
few aggregated values: S = (Q W_k) Tᵀ / √d and softmax(S) (T W_v) = (softmax(S) T) W_v. Exact, and the
per-voxel work is two matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_crln import config


class Clues(NamedTuple):
    """What DIM says of a batch."""

    #: Voxel-level clues M(x), signed and logit-like, (B, C, D, H, W).
    map_BCDHW: Tensor
    #: Proximity maps of the finest level, before normalisation, (B, C, R, d, h, w).
    proximity: Tensor


class Interaction(nn.Module):
    """Pairwise interaction of prototypes and voxels at one decoder stage (paper, section 3.2).

    Parameters
    ----------
    channels : width K of the stage's features; tokens, queries and values have this width
    width_in : width of the prototypes that come in
    residual : add the aggregated values to the prototypes, or replace them
    updates : whether a finer stage follows, for which the prototypes are updated
    """

    def __init__(self, channels: int, width_in: int, residual: bool, updates: bool) -> None:
        super().__init__()
        self.residual, self.updates = residual, updates
        self.tokens = nn.Linear(channels, channels)  # the 1×1×1 convolution
        self.token_norm = nn.LayerNorm(channels)
        self.narrow = nn.Identity() if width_in == channels else nn.Linear(width_in, channels)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        if not updates:
            return
        self.value = nn.Linear(channels, channels, bias=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 2 * channels),
            nn.GELU(),
            nn.Linear(2 * channels, channels),
        )

    def forward(self, features_BKdhw: Tensor, prototypes_BQF: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores S (B, Q, N), Q = C·R, and the prototypes (B, Q, K), updated if a stage follows."""
        tokens_BNK = self.token_norm(self.tokens(features_BKdhw.flatten(2).transpose(1, 2)))
        prototypes_BQK = self.narrow(prototypes_BQF)
        keyed_BQK = self.query(prototypes_BQK) @ self.key.weight / math.sqrt(tokens_BNK.shape[-1])
        scores_BQN = keyed_BQK @ tokens_BNK.transpose(1, 2)
        if not self.updates:
            return scores_BQN, prototypes_BQK
        update_BQK = self.value(scores_BQN.softmax(-1) @ tokens_BNK)
        prototypes_BQK = prototypes_BQK + update_BQK if self.residual else update_BQK
        return scores_BQN, prototypes_BQK + self.mlp(prototypes_BQK)


class MapHead(nn.Module):
    """R proximity maps a class → one map a class → interaction between classes → full resolution.

    The 3×3×3 convolution is depthwise-separable over the R maps, with weights shared between classes; the
    1×1×1 convolution C → C starts as the identity. With `map_axes="prototype"` the two axes change places: one map of
    each prototype's C maps, with weights shared between prototypes, and R → C, which starts at random (an ablation).
    """

    def __init__(self, classes: int, settings: config.Dim, factor: int) -> None:
        super().__init__()
        self.transposed = settings.map_axes == "prototype"
        kept, merged = classes, settings.prototypes
        if self.transposed:
            kept, merged = merged, kept
        self.depthwise = nn.Conv3d(merged, merged, 3, padding=1, groups=merged)
        self.pointwise = nn.Conv3d(merged, 1, 1)
        interacts = settings.cross_class or self.transposed
        self.cross_class = nn.Conv3d(kept, classes, 1) if interacts else nn.Identity()
        if isinstance(self.cross_class, nn.Conv3d) and not self.transposed:
            nn.init.dirac_(self.cross_class.weight)
            nn.init.zeros_(self.cross_class.bias)  # type: ignore[arg-type]
        self.up = (
            nn.ConvTranspose3d(classes, classes, factor, stride=factor, groups=classes)
            if settings.upsampling == "transposed"
            else None
        )

    def forward(self, proximity_BCRdhw: Tensor, size: tuple[int, int, int]) -> Tensor:
        """Return the level's map, (B, C, D, H, W), `size` = (D, H, W)."""
        maps = normalise_over_space(proximity_BCRdhw)
        if self.transposed:
            maps = maps.transpose(1, 2)
        batch, kept = maps.shape[:2]
        # Depthwise then pointwise is one convolution R → 1 with the product of their weights, at 60 % of the cost.
        weight = self.depthwise.weight.transpose(0, 1) * self.pointwise.weight
        bias = self.pointwise(self.depthwise.bias.view(1, -1, 1, 1, 1)).flatten()  # type: ignore[union-attr]
        one_each = F.conv3d(maps.flatten(0, 1), weight, bias, padding=1)
        joint = self.cross_class(one_each.view(batch, kept, *proximity_BCRdhw.shape[3:]))
        if self.up is not None:
            return self.up(joint)  # type: ignore[no-any-return]
        return F.interpolate(joint, size=size, mode="trilinear", align_corners=False)


class DynamicInteraction(nn.Module):
    """DIM over several decoder stages, coarse to fine, the prototypes updated on the way.

    Parameters
    ----------
    classes : C, background included
    stage_channels : width of the decoder features, by stage
    stage_factors : full resolution over the stage's resolution, by stage
    settings : `config.Dim`
    """

    def __init__(
        self,
        classes: int,
        stage_channels: Mapping[int, int],
        stage_factors: Mapping[int, int],
        settings: config.Dim,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.classes = classes
        start = torch.randn(classes, settings.prototypes, settings.width) * settings.prototype_std
        self.prototypes = nn.Parameter(start)
        finest = settings.stages[-1]
        widths = [settings.width, *(stage_channels[s] for s in settings.stages)]
        self.interactions = nn.ModuleDict()
        self.heads = nn.ModuleDict()
        for stage, width_in in zip(settings.stages, widths, strict=False):
            self.interactions[str(stage)] = Interaction(
                stage_channels[stage], width_in, settings.residual_prototypes, updates=stage != finest
            )
            if settings.levels_to_map == "all" or stage == finest:
                self.heads[str(stage)] = MapHead(classes, settings, stage_factors[stage])

    def forward(self, stages: Mapping[int, Tensor], size: tuple[int, int, int]) -> Clues:
        """Clues from decoder features {stage: (B, K_s, d, h, w)} at full resolution `size` = (D, H, W)."""
        batch = stages[self.settings.stages[0]].shape[0]
        prototypes_BQF = self.prototypes.flatten(0, 1).expand(batch, -1, -1)
        maps: list[Tensor] = []
        for stage in self.settings.stages:
            scores_BQN, prototypes_BQF = self.interactions[str(stage)](stages[stage], prototypes_BQF)
            proximity = to_proximity_maps(scores_BQN, self.classes, stages[stage].shape[2:])
            if str(stage) in self.heads:
                maps.append(self.heads[str(stage)](proximity, size))
        total = torch.stack(maps).sum(0)
        return Clues(total if self.settings.signed else total.relu(), proximity)

    def class_means_CF(self) -> Tensor:
        """Mean of each class's prototypes, mean_R(Pᶜ), (C, F)."""
        return self.prototypes.mean(1)


def to_proximity_maps(scores_BQN: Tensor, classes: int, space: torch.Size) -> Tensor:
    """Scores (B, C·R, N) as maps (B, C, R, d, h, w): queries are class-major, tokens in C order."""
    batch, queries, _ = scores_BQN.shape
    return scores_BQN.view(batch, classes, queries // classes, *space)


def normalise_over_space(maps_BCRdhw: Tensor, eps: float = 1e-5) -> Tensor:
    """Each map by its own mean and variance over space; no weights, so any size goes."""
    return F.instance_norm(maps_BCRdhw.flatten(1, 2), eps=eps).view_as(maps_BCRdhw)
