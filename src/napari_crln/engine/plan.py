"""Sizes for a data set, where nobody chose them: the paper's patch does not fit small volumes or a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_crln.config import Batches, BidirectionalCopyPaste, Rectification, Teacher
from napari_crln.types import ShapeDHW

#: Voxels of a patch that two CPU cores train on in a second or so, with 8 to 16 filters.
CPU_VOXELS = 64**3
#: Voxels that one voxel of the bottleneck spans, in the networks that ship.
STRIDE: ShapeDHW = (16, 16, 16)


def plan_patch(
    shapes: Sequence[ShapeDHW], stride: ShapeDHW = STRIDE, most_voxels: int | None = None
) -> ShapeDHW:
    """The largest patch that fits the median volume, is at most the paper's, and is a multiple of the stride.

    Parameters
    ----------
    shapes : of the training volumes, D, H, W
    stride : what the network needs the patch to be a multiple of
    most_voxels : none: any number; else the longest axes are cut until the patch has no more

    Returns
    -------
    Patch, D, H, W; one stride along an axis that is shorter (volumes are padded).
    """
    largest = Batches().patch
    median = np.median(np.array(shapes), axis=0)
    patch = [_floor(min(m, most), step) for m, most, step in zip(median, largest, stride, strict=True)]
    while most_voxels is not None and np.prod(patch) > most_voxels and patch != list(stride):
        spare = [size if size > step else 0 for size, step in zip(patch, stride, strict=True)]
        longest = spare.index(max(spare))
        patch[longest] -= stride[longest]
    d, h, w = patch
    return d, h, w


def plan_rectification(iterations: int) -> int:
    """First iteration that rectifies: the paper's, but at the latest after a quarter of the run."""
    return min(Rectification().after, iterations // 4)


def plan_pretraining(iterations: int) -> int:
    """Iterations of BCP's first stage: its default, but at most a quarter of the run."""
    return min(BidirectionalCopyPaste().pretrain, iterations // 4)


def plan_decay(iterations: int) -> float:
    """Decay of the teacher: the paper's, but on short runs it averages over a twenty-fifth of the run.

    Over ten steps or more, unless that is more than a tenth. On hippocampus, at 500 iterations, 0.95 was ahead of 0.99 on each of
    three seeds (docs/experiments.md).
    """
    steps = max(iterations / 25, min(10, iterations / 10), 2)
    return min(Teacher().decay, 1 - 1 / steps)


#: For CPUs: a narrow net and the rate that schedules of hundreds of iterations want, and gradients that a few wrong strokes
#: do not make too large for that rate (docs/experiments.md).
_CPU: dict[str, Any] = {
    "network": {"base_filters": 8, "dropout": False},
    "optimiser": {"learning_rate": 0.05, "warmup": 20, "clip_norm": 3.0},
}


def plan(shapes: Sequence[ShapeDHW], iterations: int, *, cpu: bool) -> dict[str, Any]:
    """Values to lay over the defaults of a configuration, beneath what the user chose."""
    patch = plan_patch(shapes, most_voxels=CPU_VOXELS if cpu else None)
    method = {
        "rectification": {"after": plan_rectification(iterations)},
        "teacher": {"decay": plan_decay(iterations)},
        "bcp": {"pretrain": plan_pretraining(iterations)},
        "ua_mt": {"ramp_up": iterations},
    }
    return {"batches": {"patch": list(patch)}, "method": method, **(_CPU if cpu else {})}


def _floor(size: float, step: int) -> int:
    return max(1, int(size) // step) * step
