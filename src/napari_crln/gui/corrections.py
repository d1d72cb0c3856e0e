"""Correcting: a slice of the annotation begins as the pseudo-label that is shown, so that one mends and does not repaint.

No Qt, no napari. The whole slice counts as annotated from then on: what was right is confirmed by leaving it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.types import NOT_ANNOTATED, ShapeDHW
from napari_crln.volume.annotate import BACKGROUND, Plane, plane_of

Indices = tuple[NDArray[np.int64], ...]

#: Live maps that may be corrected, what is nearest to the last word first.
CORRECTABLE = ("rectified", "pseudo_label", "prediction")


@dataclass(frozen=True, eq=False)
class Filling:
    """Voxels of an array (D, H, W) by index, and what they become."""

    indices: Indices
    values: NDArray[Any]


def from_labels(annotation: Any, labels: Any, plane: Plane) -> Filling:
    """Class indices of a slice as annotation, wherever nothing is annotated yet.

    Parameters
    ----------
    annotation : annotation values (D, H, W)
    labels : class indices (D, H, W)
    """
    empty, inside = _empty(annotation, plane)
    values = np.asarray(labels[inside])[empty].astype(np.asarray(annotation[inside]).dtype) + BACKGROUND
    return Filling(_indices(empty, inside), values)


def as_background(annotation: Any, plane: Plane) -> Filling:
    """Background wherever nothing is annotated yet: the slice is complete."""
    empty, inside = _empty(annotation, plane)
    dtype = np.asarray(annotation[inside]).dtype
    return Filling(_indices(empty, inside), np.full(np.count_nonzero(empty), BACKGROUND, dtype))


def covers(region: Sequence[tuple[int, int]] | None, shape: ShapeDHW, plane: Plane) -> bool:
    """Whether maps of a region (none: the whole) have all of a slice."""
    if region is None:
        return True
    start, size = plane_of(plane, shape)
    spans = zip(region, start, size, strict=True)
    return all(low <= s and s + n <= high for (low, high), s, n in spans)


def _empty(annotation: Any, plane: Plane) -> tuple[NDArray[np.bool_], tuple[slice, ...]]:
    start, size = plane_of(plane, annotation.shape)
    inside = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
    return np.asarray(annotation[inside]) == NOT_ANNOTATED, inside


def _indices(empty: NDArray[np.bool_], inside: tuple[slice, ...]) -> Indices:
    return tuple(axis + span.start for axis, span in zip(np.nonzero(empty), inside, strict=True))
