"""Where a volume's voxels are in the viewer, whatever else is open: layers of other units, of more axes. Qt-free.

napari 0.7 and later has one unit for each axis of the viewer, the smallest of all layers'; its points are in those, whereas a layer
converts in its own unit. Layers of more axes than three put theirs before the volume's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from napari_crln.types import ShapeDHW


def to_voxel(viewer: Any, layer: Any, point: Sequence[float]) -> tuple[float, float, float]:
    """The voxel (D, H, W), with fractions, of a 3D layer at a point of the viewer's last three axes."""
    d, h, w = layer.world_to_data(in_units_of(viewer, layer, point[-3:]))
    return float(d), float(h), float(w)


def to_point(viewer: Any, layer: Any, voxel: Sequence[float]) -> tuple[float, float, float]:
    """The point in the viewer's last three axes of a voxel (D, H, W) of a 3D layer."""
    z, y, x = np.asarray(layer.data_to_world(voxel)) / _units(viewer, layer)
    return float(z), float(y), float(x)


def in_units_of(viewer: Any, layer: Any, point: Sequence[float]) -> list[float]:
    """A point of the viewer, its last three axes in the units of a 3D layer."""
    factors = np.ones(len(point))
    factors[-3:] = _units(viewer, layer)
    return [float(value) for value in np.asarray(point) * factors]


def sliced_axis(viewer: Any) -> int | None:
    """The axis (0, 1, 2) of a volume across which the viewer shows a slice; None in 3D, or where two of them are not shown."""
    dims = viewer.dims
    before = dims.ndim - 3
    hidden = [axis for axis in range(3) if before + axis not in dims.displayed]
    return hidden[0] if dims.ndisplay == 2 and len(hidden) == 1 else None


def slice_index(viewer: Any, layer: Any, shape: ShapeDHW, axis: int) -> int:
    """The slice across an axis that the viewer shows of a volume, or would show nearest to where it is."""
    at = round(to_voxel(viewer, layer, viewer.dims.point)[axis])
    return int(min(max(at, 0), shape[axis] - 1))


def _units(viewer: Any, layer: Any) -> Any:
    """What one unit of the viewer is in those of a layer, for the last three axes; 1 where units do not go together."""
    ours, theirs = getattr(layer, "units", None), getattr(viewer.dims, "units", None)
    if ours is None or theirs is None or len(theirs) < 3 or tuple(ours[-3:]) == tuple(theirs[-3:]):
        return np.ones(3)
    pairs = list(zip(theirs[-3:], ours[-3:], strict=True))
    if any(a is None or b is None or a.dimensionality != b.dimensionality for a, b in pairs):
        return np.ones(3)
    return np.array([float((1 * a).to(b).magnitude) for a, b in pairs])
