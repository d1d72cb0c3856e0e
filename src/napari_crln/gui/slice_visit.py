"""Take the viewer to a slice of a volume: in 2D, across the slice's axis, the slice filling the canvas."""

from __future__ import annotations

from typing import Any

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
    world = image.data_to_world(centre)
    for place, value in enumerate(world[-3:], start=before):
        dims.set_point(place, float(value))
    _fit(viewer, image)


def _fit(viewer: Any, image: Any) -> None:
    """Zoom to one layer; to all of them where napari cannot tell them apart (before 0.6.5)."""
    try:
        viewer.reset_view(layers=[image])
    except TypeError:
        viewer.reset_view()
