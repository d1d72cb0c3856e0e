"""Layers of a panel that was closed: they stay in the viewer, and those of the next panel take their place.

What the user changes meanwhile is the user's own from then on, and so is any copy: both stay for good. Qt-free.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

_CHANGES = ("paint", "labels_update", "data")
_left: WeakSet[Any] = WeakSet()


def leave(layer: Any) -> None:
    """Leave one of the panel's layers in the viewer."""
    _left.add(layer)
    for name in _CHANGES:
        event = getattr(layer.events, name, None)
        if event is not None:
            event.connect(_keep)


def take_away(viewer: Any) -> None:
    """Take away what a panel has left, but for what was changed since."""
    for layer in list(viewer.layers):
        if getattr(layer, "__wrapped__", layer) in _left:  # napari hands plugins proxies
            viewer.layers.remove(layer)


def _keep(event: Any) -> None:
    _left.discard(event.source)
