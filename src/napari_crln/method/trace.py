"""From voxels of the views back to voxels of the patches that they were made of: `views.py` read backwards.

Draws are plain data, so a view can be undone without keeping it. Geometry only, on the CPU: points are
(sample, d, h, w), and what a view invented (padding, the border of a shrunken plane) comes back as the nearest
voxel that was there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_crln.method.views import StrongDraw, Turn, WeakDraw
from napari_crln.types import ShapeDHW

Points: TypeAlias = NDArray[np.int64]  # (N, 4): sample, d, h, w


def before_weak(points_N4: Points, draws: Sequence[WeakDraw], patch: ShapeDHW) -> Points:
    """Where voxels of weak views lie in their patches, (N, 4)."""
    found = points_N4.copy()
    for sample, draw in enumerate(draws):
        own = points_N4[:, 0] == sample
        found[own, 1:] = _unturned(points_N4[own, 1:], draw.turn, patch)
    return found


def before_strong(points_N4: Points, draws: Sequence[StrongDraw], patch: ShapeDHW) -> Points:
    """Where voxels of strong views lie in the weak views, (N, 4); CutMix leads to another sample."""
    found = points_N4.copy()
    for sample, draw in enumerate(draws):
        own = points_N4[:, 0] == sample
        points = _unturned(points_N4[own, 1:], draw.turn, patch)
        source = np.where(_in_box(points, draw.box), (sample + 1) % len(draws), sample)
        for other in np.unique(source):
            moved = source == other
            points[moved] = _unzoomed(points[moved], draws[other].scale, patch)
        found[own] = np.column_stack([source, points])
    return found


def _unturned(points_N3: Points, turn: Turn, shape: ShapeDHW) -> Points:
    """`views._turn` undone: flips first, then quarter turns one by one."""
    d, h, w = (
        size - 1 - p if flipped else p
        for p, size, flipped in zip(points_N3.T, shape, turn.flips, strict=True)
    )
    for left in reversed(range(turn.quarters)):  # rot90: turned[i, j] = plane[j, width - 1 - i]
        width = shape[2] if left % 2 == 0 else shape[1]
        h, w = w, width - 1 - h
    return np.column_stack([d, h, w])


def _unzoomed(points_N3: Points, scale: float, shape: ShapeDHW) -> Points:
    """`views._zoom` undone: centre crop or padding, then the nearest source of each voxel."""
    found = points_N3.copy()
    for axis in (1, 2):
        size = shape[axis]
        zoomed = max(1, round(scale * size))
        inner = (points_N3[:, axis] - (size - zoomed) // 2).clip(0, zoomed - 1)
        found[:, axis] = ((inner + 0.5) * (size / zoomed)).astype(np.int64).clip(0, size - 1)
    return found


def _in_box(points_N3: Points, box: tuple[int, int, int, int] | None) -> NDArray[np.bool_]:
    if box is None:
        return np.zeros(len(points_N3), bool)
    h0, h1, w0, w1 = box
    _, h, w = points_N3.T
    inside: NDArray[np.bool_] = (h >= h0) & (h < h1) & (w >= w0) & (w < w1)
    return inside
