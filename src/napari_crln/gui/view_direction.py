"""A work-around for napari (seen in 0.9.2): a Labels layer with features made active in 3D raises TypeError.

napari keeps the direction of view with the mouse's position, so it has none until the mouse moves over the canvas in
3D. The status text that a newly active layer asks for is then computed with `np.asarray(None)`
(`Labels.get_status`), which is not None any more, and has no length. Here the direction is what the camera says, as
soon as the viewer turns to 3D.
"""

from __future__ import annotations

from typing import Any

from napari_crln.gui.viewer_layers import own

#: Private to napari: may be gone with any release.
_KEPT = "_view_direction"


def direction_of_view(viewer: Any) -> Any:
    """What napari keeps with the mouse's position: None in 2D, before the mouse has moved, and where napari has no such name."""
    return getattr(viewer.cursor, _KEPT, None)


class ViewDirection:
    """Keeps a viewer's direction of view known; until closed."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = own(viewer)
        events = self._viewer.dims.events
        for event in (
            events.ndisplay,
            events.ndim,
        ):  # an empty viewer has 2 axes until a layer brings a third
            event.connect(self._look, position="first")
        self._look()

    def close(self) -> None:
        """Leave it to napari."""
        for event in (self._viewer.dims.events.ndisplay, self._viewer.dims.events.ndim):
            event.disconnect(self._look)

    def _look(self, _event: Any = None) -> None:
        viewer = self._viewer
        cursor, dims = viewer.cursor, viewer.dims
        if dims.ndisplay == 3 and hasattr(cursor, _KEPT) and direction_of_view(viewer) is None:
            camera = getattr(viewer, "scene", viewer).camera  # `viewer.camera` before napari 0.9
            setattr(cursor, _KEPT, camera.calculate_nd_view_direction(dims.ndim, dims.displayed))
