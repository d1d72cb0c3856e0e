"""Which slices of a volume are annotated, and across which axis somebody annotates it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_crln.types import IGNORE, TargetDHW

_MOST = 0.5  # of a slice, across another axis than the one that is annotated


def covered_shares(target: TargetDHW, axis: int) -> NDArray[np.float64]:
    """Share of each slice's voxels that carry a label."""
    planes = tuple(other for other in range(3) if other != axis)
    return np.asarray((target != IGNORE).mean(planes))


def annotation_axis(target: TargetDHW | None) -> int:
    """The axis across which slices are either annotated or not; 0 where that says nothing.

    Planes across one axis leave all of its slices full or empty, and cut those of the other axes alike.
    """
    if target is None:
        return 0
    return int(np.argmax([covered_shares(target, axis).var() for axis in range(3)]))


def annotated_slices(target: TargetDHW | None, axis: int, depth: int) -> NDArray[np.bool_]:
    """Whether each slice is annotated: by a single stroke across the volume's own axis, by half across another."""
    if target is None:
        return np.zeros(depth, np.bool_)
    shares = covered_shares(target, axis)
    return shares > 0 if axis == annotation_axis(target) else shares >= _MOST
