"""What the teacher believes of slices: how unsure it is, how far rectification moves it, and where they lie in
prototype space.

These are the method's own quantities, read slice by slice to say which slice would teach most (`engine.ranking`):
CPS's uncertainty 1 - p of the rectified label's class; the distance between the teacher's probabilities and the rectified ones;
the scores of voxels against the class prototypes, which are their coordinates in the space that DIM compares them in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from napari_crln.method.learner import Learner
from napari_crln.method.rectify import rectify

#: Columns of `sums_along` before the features.
COUNT, UNCERTAINTY, CONFLICT, WEIGHT, FEATURES = range(5)


class SliceBelief(NamedTuple):
    """Maps that slices are summed over."""

    #: u = 1 - p of the rectified label's class, (B, D, H, W), 0-1.
    uncertainty_BDHW: Tensor
    #: Total variation ½ Σ |p̄ - p_r|, (B, D, H, W), 0-1; None where nothing is rectified.
    disagreement_BDHW: Tensor | None
    #: 1 - p of the background, (B, D, H, W).
    object_BDHW: Tensor
    #: Scores against the C·R prototypes at DIM's finest stage; without clues, the decoder's features there.
    features_BKdhw: Tensor


@torch.no_grad()
def slice_belief(learner: Learner, x_B1DHW: Tensor, rectifies: bool) -> SliceBelief:
    """Maps of windows by the teacher in eval mode; `rectifies`: whether the pseudo-labels are, by now."""
    learner.teacher.eval()
    method = learner.settings
    output = learner.teacher(x_B1DHW)
    z = output.logits_BCDHW.float()
    p = z.softmax(1)
    if not method.uses_clues:
        features = output.stages[method.dim.stages[-1]].float()
        return SliceBelief(1 - p.amax(1), None, 1 - p[:, 0], features)
    clues = learner.teacher.clues(output)
    features = clues.proximity.float().flatten(1, 2)
    if not (rectifies and method.uses_rectification):
        return SliceBelief(1 - p.amax(1), None, 1 - p[:, 0], features)
    p_r = rectify(z, clues.map_BCDHW.float(), learner.trust.mu, method.rectification).softmax(1)
    return SliceBelief(1 - p_r.amax(1), (p - p_r).abs().sum(1) / 2, 1 - p_r[:, 0], features)


def sums_along(belief: SliceBelief, valid_BDHW: Tensor, axis: int) -> Tensor:
    """Sums over each slice across an axis, (B, S, 4 + K): voxels, Σu, Σu·d, Σw, Σw·features.

    The features of a slice are weighted by w = u + (1 - p of the background): by what is an object, or may be one.
    Voxels that padding invented count nowhere.
    """
    valid = valid_BDHW.float()
    u = belief.uncertainty_BDHW * valid
    conflict = u if belief.disagreement_BDHW is None else u * belief.disagreement_BDHW
    weight = u + belief.object_BDHW * valid
    coarse_B1dhw = _mean_pooled(weight, belief.features_BKdhw.shape[2:]).unsqueeze(1)
    moments_BKdhw = torch.cat([coarse_B1dhw, coarse_B1dhw * belief.features_BKdhw], 1)
    fine = torch.stack([valid, u, conflict], 1)
    fine_BSK, coarse_BsK = _by_slice(fine, axis), _by_slice(moments_BKdhw, axis)
    factor = fine_BSK.shape[1] // coarse_BsK.shape[1]
    return torch.cat([fine_BSK, coarse_BsK.repeat_interleave(factor, 1)], 2)


def _mean_pooled(map_BDHW: Tensor, size: Sequence[int]) -> Tensor:
    """Means of the blocks that a coarser grid of `size` has for voxels, (B, d, h, w); sizes are multiples of it.

    Reshaped, as torch's adaptive pooling has no kernel for three axes on MPS.
    """
    blocks = [n for full, parts in zip(map_BDHW.shape[1:], size, strict=True) for n in (parts, full // parts)]
    return map_BDHW.reshape(-1, *blocks).mean((2, 4, 6))


def _by_slice(maps_BKDHW: Tensor, axis: int) -> Tensor:
    """Sums in the planes across an axis, (B, S, K)."""
    planes = tuple(2 + other for other in range(3) if other != axis)
    return maps_BKDHW.sum(planes).transpose(1, 2)
