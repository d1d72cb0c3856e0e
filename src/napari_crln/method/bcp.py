"""Bidirectional copy-paste (Bai et al., "Bidirectional Copy-Paste for Semi-Supervised Medical Image Segmentation",
CVPR 2023), on the same loop, weak views, network and optimiser as every other method.

A box is cut out of one kind of image and filled from the other, both ways: labelled foreground seen in unlabelled
surroundings, and the reverse. The student learns the mixed labels, voxels whose label is the teacher's counting α.

Against the published code: every labelled patch meets an unlabelled one in both directions, so the student sees as
many patches a step as in the other methods (theirs sees half of the batch); the teacher is in the mode that
`method.teacher.mode` says; and the two stages are one run, the EMA teacher of the first `pretrain` iterations
taking the place of their best pretrained checkpoint.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from napari_crln import config
from napari_crln.method.learner import Batch, Learner, Randomness, StepResult
from napari_crln.method.losses import supervised_loss
from napari_crln.method.step import weak_views
from napari_crln.types import IGNORE


def bcp_step(learner: Learner, batch: Batch, step: int, random: Randomness) -> StepResult:
    """Mixed images, mixed labels (equations 1-7); before `pretrain`, of labelled patches alone (section 3.2)."""
    settings = learner.settings.bcp
    x_l, y_l, x_u, valid_u = weak_views(learner, batch, random)
    box_DHW = draw_box(random, x_l, settings)
    if step < settings.pretrain:
        logits = learner.student(paste(x_l, x_l.roll(1, 0), box_DHW)).logits_BCDHW
        loss = supervised_loss(logits, paste(y_l, y_l.roll(1, 0), box_DHW))
        return StepResult(loss, {"supervised": loss})

    y_u, measures = _pseudo_labels(learner, x_u, valid_u, settings)
    x_u, y_u = _as_many(x_u, len(x_l)), _as_many(y_u, len(x_l))
    x_out, y_out = x_u.roll(1, 0), y_u.roll(1, 0)  # another unlabelled patch than the one that is pasted
    mixed = torch.cat([paste(x_l, x_u, box_DHW), paste(x_out, x_l, box_DHW)])
    z_in, z_out = learner.student(mixed).logits_BCDHW.split(len(x_l))
    terms = {
        "inward": mixed_loss(z_in, y_l, y_u, box_DHW, (1.0, settings.weight)),
        "outward": mixed_loss(z_out, y_out, y_l, box_DHW, (settings.weight, 1.0)),
    }
    return StepResult(torch.stack(list(terms.values())).sum(), terms, measures)


def draw_box(random: Randomness, x_B1DHW: Tensor, settings: config.BidirectionalCopyPaste) -> Tensor:
    """True within a box of `share` of each side, anywhere in the patch, (D, H, W), on the patch's device."""
    rng = random.numpy("strong views")
    box = []
    for size in x_B1DHW.shape[-3:]:
        side = max(1, int(size * settings.share))
        start = int(rng.integers(size - side + 1))
        box.append(slice(start, start + side))
    mask = torch.zeros(x_B1DHW.shape[-3:], dtype=torch.bool, device=x_B1DHW.device)
    mask[tuple(box)].fill_(True)
    return mask


def paste(around: Tensor, within: Tensor, box_DHW: Tensor) -> Tensor:
    """`within` inside the box and `around` elsewhere, images or labels (…, D, H, W) (equation 2)."""
    return torch.where(box_DHW, within, around)


def mixed_loss(
    logits_BCDHW: Tensor,
    around_BDHW: Tensor,
    within_BDHW: Tensor,
    box_DHW: Tensor,
    weights: tuple[float, float],
) -> Tensor:
    """ℓ_s around the box and within it, each over its own voxels and with its own weight (equations 5-6)."""
    around = supervised_loss(logits_BCDHW, around_BDHW.masked_fill(box_DHW, IGNORE))
    within = supervised_loss(logits_BCDHW, within_BDHW.masked_fill(~box_DHW, IGNORE))
    return weights[0] * around + weights[1] * within


def largest_components(label_BDHW: Tensor, classes: int) -> Tensor:
    """Labels with each class reduced to its largest component in each sample, the rest background.

    Voxels that touch at a corner are one component, as in the published code (26 neighbours). By SciPy, on the
    CPU: on a GPU the step waits for it, as it does there.
    """
    kept = np.zeros(label_BDHW.shape, np.int64)
    for sample, out in zip(label_BDHW.cpu().numpy(), kept, strict=True):
        for k in range(1, classes):
            components, count = ndimage.label(sample == k, structure=np.ones((3, 3, 3)))
            if count:
                largest = np.bincount(components.ravel())[1:].argmax() + 1
                out[components == largest] = k
    return torch.from_numpy(kept).to(label_BDHW.device)


@torch.no_grad()
def _pseudo_labels(
    learner: Learner, x_u: Tensor, valid_u: Tensor, settings: config.BidirectionalCopyPaste
) -> tuple[Tensor, dict[str, Tensor]]:
    """The teacher's labels, IGNORE where padding invented the voxel; and the share that was kept as it was."""
    logits = learner.teach(x_u)[0].logits_BCDHW
    found = label = logits.argmax(1)
    if settings.largest_component:
        label = largest_components(found, logits.shape[1])
    changed = ((found != label) & valid_u).sum() / valid_u.sum().clamp(min=1)
    return torch.where(valid_u, label, IGNORE), {"changed": changed}


def _as_many(x: Tensor, count: int) -> Tensor:
    """The first `count` samples, from the first again where there are too few."""
    times = -(-count // len(x))
    return x.repeat(times, *[1] * (x.dim() - 1))[:count]
