"""The values of a labels layer, and what the layer calls and colours them.

Names come from the layer's features (or properties), as napari shows them on hovering: a row belongs to the
value in its column `index`, or to its own number; the name is in a column `class`, `name` or `label`, or in the
first column of text. Colours come from the layer's colormap, so that a class keeps the look it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.gui.layer_geometry import State
from napari_crln.volume.labels import ClassTable

_NAME_COLUMNS = ("class", "name", "label", "label_name")
_BAND = 1 << 24  # voxels looked at together


def label_values(labels: Any) -> list[int]:
    """All values that occur, in order; reads every voxel, band by band."""
    found: set[int] = set()
    for band in bands(labels):
        values = np.flatnonzero(np.bincount(band.ravel())) if _is_small(band) else np.unique(band)
        found.update(values.tolist())
    return sorted(found)


def bands(array: Any) -> Iterator[NDArray[Any]]:
    """An array (D, H, W), perhaps lazy, in pieces along D."""
    rows = max(1, _BAND // max(1, array.shape[1] * array.shape[2]))
    for start in range(0, array.shape[0], rows):
        yield np.asarray(array[start : start + rows])


def value_names(state: State) -> dict[int, str]:
    """Name of each value that the layer names."""
    table = state.get("features")
    columns = _columns(table if table is not None and len(table) else state.get("properties"))
    names = next((columns[key] for key in _NAME_COLUMNS if key in columns), None) or _first_text(columns)
    if names is None:
        return {}
    index = columns.get("index", list(range(len(names))))
    rows = ((_value(value), name) for value, name in zip(index, names, strict=True))
    return {value: str(name) for value, name in rows if value is not None and _is_text(name)}


def value_colours(state: State, values: Iterable[int]) -> dict[int, str]:
    """Colour `#rrggbb` of each value that the layer's colormap shows."""
    colormap: Any = state.get("colormap")
    if isinstance(colormap, dict):
        from napari.utils.colormaps import DirectLabelColormap

        colormap = DirectLabelColormap(color_dict={None: "transparent", **colormap})
    if not hasattr(colormap, "map"):
        return {}
    colours = {value: np.asarray(colormap.map(value), dtype=np.float64).ravel() for value in values}
    return {value: _hexadecimal(rgba) for value, rgba in colours.items() if rgba[3] > 0}


def class_look(
    classes: ClassTable, *, offset: int, show_background: bool = False, zero: str = "not annotated"
) -> dict[str, Any]:
    """Colormap and features of a labels layer whose value for class k is k + offset.

    Parameters
    ----------
    offset : 0 for class indices, 1 for annotations
    show_background : background in grey: in a sparse annotation it is not the same as nothing
    zero : what 0 means where the offset is 1
    """
    colours: dict[int | None, Any] = {0: "transparent", None: "transparent"}
    colours |= {each.index + offset: each.colour for each in classes if each.index}
    if offset:
        colours[offset] = (0.5, 0.5, 0.5, 0.6) if show_background else "transparent"
    first = [zero] if offset else []
    names = [*first, *classes.names]
    return {"colormap": colours, "features": {"index": list(range(len(names))), "class": names}}


def _columns(table: Any) -> dict[str, list[Any]]:
    return {} if table is None else {str(key): list(table[key]) for key in table}


def _value(index: Any) -> int | None:
    """The value that a row is about; None if it says none: NaN, nothing, a word."""
    try:
        return int(index)
    except (TypeError, ValueError, OverflowError):
        return None


def _first_text(columns: dict[str, list[Any]]) -> list[Any] | None:
    return next((column for column in columns.values() if column and all(map(_is_text, column))), None)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_small(band: NDArray[Any]) -> bool:
    return band.dtype.kind == "u" and band.dtype.itemsize <= 2


def _hexadecimal(rgba: NDArray[np.float64]) -> str:
    return "#" + "".join(f"{round(255 * float(part)):02x}" for part in rgba[:3])
