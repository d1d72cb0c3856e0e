"""Whether the user is painting right now: the mouse is held down in a mode that changes labels.

A picture that is swapped during a stroke makes the brush stutter, so live layers wait for its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from napari.layers import Labels

from napari_crln.gui.viewer_layers import own

_PAINTING = frozenset({"paint", "fill", "erase", "polygon"})


class Strokes:
    """Watches a viewer's mouse, on whatever layer; until closed.

    Parameters
    ----------
    viewer : napari's
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = own(viewer)
        self.active = False
        self._viewer.mouse_drag_callbacks.append(self._pressed)
        self._viewer.mouse_move_callbacks.append(self._moved)

    def close(self) -> None:
        """Watch no more."""
        self._viewer.mouse_drag_callbacks.remove(self._pressed)
        self._viewer.mouse_move_callbacks.remove(self._moved)
        self.active = False

    def _pressed(self, viewer: Any, event: Any) -> Iterator[None]:
        """napari goes on with it at each move, and once more at the release."""
        layer = own(viewer.layers.selection.active)
        if isinstance(layer, Labels) and str(layer.mode) in _PAINTING and layer.editable:
            self.active = True
            yield
            while event.type == "mouse_move":
                yield
            self.active = False

    def _moved(self, _viewer: Any, _event: Any) -> None:
        """napari calls this only while no button is held: the release may have been lost outside the window."""
        self.active = False
