"""Take the viewer to a slice of a volume: in 2D, across the slice's axis, the slice filling the canvas."""

from __future__ import annotations

from typing import Any

from napari_crln.gui.viewer_space import sliced_axis, to_point, to_voxel
from napari_crln.types import ShapeDHW


def visit(viewer: Any, image: Any, shape: ShapeDHW, axis: int, index: int) -> None:
    """Show slice `index` across `axis` (0, 1, 2 = D, H, W) of a volume whose image layer is given."""
    dims = viewer.dims
    dims.ndisplay = 2
    before = dims.ndim - 3
    others = [before + other for other in range(3) if other != axis]
    dims.order = (*range(before), before + axis, *others)
    centre = [(size - 1) / 2 for size in shape]
    centre[axis] = float(index)
    for place, value in enumerate(to_point(viewer, image, centre), start=before):
        dims.set_point(place, value)
    _fit(viewer, image)


def bring_into_sight(viewer: Any, image: Any, shape: ShapeDHW) -> None:
    """Go to the middle of a volume whose image layer is given, unless the viewer looks at it: slice and view stay then.

    Volumes of a cohort may lie anywhere: scanners place each in coordinates of the patient.
    """
    seen = to_voxel(viewer, image, _looked_at(viewer))
    if all(-0.5 <= at <= size - 0.5 for at, size in zip(seen, shape, strict=True)):
        return None
    if viewer.dims.ndisplay == 3:
        return _fit(viewer, image)
    axis = sliced_axis(viewer) or 0
    return visit(viewer, image, shape, axis, shape[axis] // 2)


def _looked_at(viewer: Any) -> list[float]:
    """The point, in world coordinates, in the middle of the canvas."""
    point = list(viewer.dims.point)
    shown = viewer.dims.displayed
    for axis, value in zip(shown, getattr(viewer, "scene", viewer).camera.center[-len(shown) :], strict=True):
        point[axis] = float(value)
    return point[-3:]


def _fit(viewer: Any, image: Any) -> None:
    """Zoom to one layer; to all of them where napari cannot (before 0.6.5, or beside a layer of more axes)."""
    try:
        viewer.reset_view(layers=[image])
    except (TypeError, IndexError):
        viewer.reset_view()
