"""Losses over labelled voxels only (docs/concepts/method.md, losses). Computed in float32."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_crln import config
from napari_crln.types import IGNORE

_SMOOTH = 1e-5


def supervised_loss(logits_BCDHW: Tensor, target_BDHW: Tensor) -> Tensor:
    """ℓ_s = ½ (cross-entropy + soft Dice over foreground classes), unlabelled voxels (IGNORE) left out.

    Zero, with a gradient of zero, where no voxel is labelled.
    """
    logits = logits_BCDHW.float()
    return 0.5 * (masked_cross_entropy(logits, target_BDHW) + soft_dice_loss(logits, target_BDHW))


def masked_cross_entropy(logits_BCDHW: Tensor, target_BDHW: Tensor) -> Tensor:
    """Mean cross-entropy over voxels whose target is not IGNORE; 0 where there is none."""
    total = F.cross_entropy(logits_BCDHW, target_BDHW.long(), ignore_index=IGNORE, reduction="sum")
    return total / (target_BDHW != IGNORE).sum().clamp(min=1)


def soft_dice_loss(logits_BCDHW: Tensor, target_BDHW: Tensor) -> Tensor:
    """1 - soft Dice, over the batch as one volume, mean of foreground classes, labelled voxels only."""
    labelled = target_BDHW != IGNORE
    p = logits_BCDHW.softmax(1) * labelled.unsqueeze(1)
    classes_C111 = torch.arange(p.shape[1], device=p.device).view(-1, 1, 1, 1)
    one_hot = target_BDHW.unsqueeze(1) == classes_C111  # IGNORE is no class
    over = (0, 2, 3, 4)
    intersection = (p * one_hot).sum(over)
    dice = (2 * intersection + _SMOOTH) / (p.sum(over) + one_hot.sum(over) + _SMOOTH)
    return (1 - dice[1:]).mean()


def consistency_loss(
    logits_BCDHW: Tensor, label_BDHW: Tensor, confidence_BDHW: Tensor, settings: config.Consistency
) -> Tensor:
    """Cross-entropy of the student against the pseudo-label, weighted by the pseudo-label's confidence.

    `sample`: each sample's mean, times its fraction of valid voxels with confidence ≥ the threshold (paper).
    `voxel`: only such voxels count; the mean is over all valid ones (FixMatch).
    Voxels that padding invented have the label IGNORE and are not valid.
    """
    per_voxel = F.cross_entropy(
        logits_BCDHW.float(), label_BDHW.long(), ignore_index=IGNORE, reduction="none"
    )
    valid = label_BDHW != IGNORE
    space = (1, 2, 3)
    count_B = valid.sum(space).clamp(min=1)
    if settings.weighting == "voxel":
        sure = valid & (confidence_BDHW >= settings.voxel_threshold)
        return (per_voxel * sure).sum() / count_B.sum()
    share_B = (valid & (confidence_BDHW >= settings.sample_threshold)).sum(space) / count_B
    return (share_B * per_voxel.sum(space) / count_B).mean()


def ramp_up(iteration: int, length: int) -> float:
    """Sigmoid ramp exp(-5 (1 - t)²) from 0.007 to 1 over `length` iterations (Laine & Aila 2017)."""
    if length == 0 or iteration >= length:
        return 1.0
    return math.exp(-5.0 * (1.0 - iteration / length) ** 2)


def softmax_mse(student_BCDHW: Tensor, teacher_BCDHW: Tensor, keep_BDHW: Tensor) -> Tensor:
    """Mean squared difference of probabilities over the voxels kept; 0 where there is none."""
    squared = (student_BCDHW.float().softmax(1) - teacher_BCDHW.float().softmax(1)).square().mean(1)
    return (squared * keep_BDHW).sum() / keep_BDHW.sum().clamp(min=1)


def as_float(values: dict[str, Tensor]) -> dict[str, float]:
    """Read scalar tensors in one transfer."""
    if not values:
        return {}
    numbers = torch.stack([v.detach().float() for v in values.values()]).tolist()
    return dict(zip(values, numbers, strict=True))
