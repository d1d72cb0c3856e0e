"""Layers of a panel that was closed: they stay in the viewer, and those of the next panel take their place.

What the user changes meanwhile is the user's own from then on, and stays for good. Qt-free.
"""

from __future__ import annotations

from typing import Any

from napari_crln.gui.tags import KEY, tag_of

_CHANGES = ("paint", "labels_update", "data")


def leave(layer: Any) -> None:
    """Leave one of the panel's layers in the viewer."""
    layer.metadata[KEY] = tag_of(layer.metadata) | {"left": True}
    for name in _CHANGES:
        event = getattr(layer.events, name, None)
        if event is not None:
            event.connect(_keep)


def take_away(viewer: Any) -> None:
    """Take away what a panel has left, but for what was changed since."""
    for layer in list(viewer.layers):
        if tag_of(layer.metadata).get("left"):
            viewer.layers.remove(layer)


def _keep(event: Any) -> None:
    layer = event.source
    layer.metadata[KEY] = {name: fact for name, fact in tag_of(layer.metadata).items() if name != "left"}
