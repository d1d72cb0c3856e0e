"""Which slices of a volume are annotated, and across which axis somebody annotates it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_crln.types import IGNORE, ShapeDHW, TargetDHW

_BAND = 32  # planes read together
_MOST = 0.5  # of a slice, across another axis than the one that is annotated


def annotated_slices(
    target: TargetDHW | None, shape: ShapeDHW, axes: Sequence[int] | None = None
) -> dict[int, NDArray[np.bool_]]:
    """Whether each slice across each of the axes is annotated; by default, across the annotation axis.

    Across the volume's own annotation axis a single stroke makes a slice annotated, across another half its area.
    """
    if target is None:
        return {axis: np.zeros(shape[axis], np.bool_) for axis in ((0,) if axes is None else axes)}
    shares = _covered_shares(target)
    own = _most_decided(shares)
    return {
        axis: shares[axis] > 0 if axis == own else shares[axis] >= _MOST
        for axis in ((own,) if axes is None else axes)
    }


def _covered_shares(target: TargetDHW) -> list[NDArray[np.float64]]:
    """Share of the voxels that carry a label, of each slice across D, H, W; the volume may be read by slicing alone."""
    d, h, w = target.shape
    counts = np.zeros(d), np.zeros(h), np.zeros(w)
    for start in range(0, d, _BAND):
        seen = np.asarray(target[start : start + _BAND]) != IGNORE
        of_rows = seen.sum(2, dtype=np.int64)
        counts[0][start : start + _BAND] = of_rows.sum(1)
        counts[1][:] += of_rows.sum(0)
        counts[2][:] += seen.sum((0, 1), dtype=np.int64)
    return [count * len(count) / (d * h * w) for count in counts]


def _most_decided(shares: Sequence[NDArray[np.float64]]) -> int:
    """The axis across which slices are either annotated or not; 0 where that says nothing.

    Planes across one axis leave all of its slices full or empty, and cut those of the other axes alike.
    """
    return int(np.argmax([each.var() for each in shares]))
