"""Layers of a panel that was closed: they stay in the viewer, and those of the next panel take their place.

One that the user paints on, fills with other values, renames or moves meanwhile is the user's own from then on, and so is any
copy: they stay for good. How a layer looks (colours, opacity) does not count. Qt-free.
"""

from __future__ import annotations

import zlib
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from napari_crln.gui.viewer_layers import own, remove

_left: WeakKeyDictionary[Any, tuple[Any, ...]] = WeakKeyDictionary()


def leave(layer: Any) -> None:
    """Leave one of the panel's layers in the viewer."""
    _left[layer] = _state(layer)


def take_away(viewer: Any) -> None:
    """Take away what a panel has left, but for what was changed since."""
    unchanged = []
    for layer in viewer.layers:
        before = _left.pop(own(layer), None)
        if before is not None and before == _state(own(layer)):
            unchanged.append(layer)
    remove(viewer, unchanged)


def _state(layer: Any) -> tuple[Any, ...]:
    """What makes a layer another one: its name, values and place; of values that are read from disk, which array it is."""
    data = layer.data
    values = zlib.crc32(np.ascontiguousarray(data).data) if isinstance(data, np.ndarray) else id(data)
    place = np.asarray(layer.affine.affine_matrix).tobytes(), tuple(layer.translate), tuple(layer.scale)
    return layer.name, values, place
