"""From belief maps to 8 bits: which maps a generation stores, and the scale of each.

A scale is fixed once the first planes of a generation are there, since the rest is written as it comes. It
has room for what these planes and the generation before it hold and, where more planes follow, for a quarter
more; what lies beyond is clipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.engine.maps import BeliefMaps
from napari_crln.previews import (
    MEANINGS,
    MapName,
    MapRecord,
    Quantisation,
    exact,
    spanning,
    symmetric,
    unit,
)

_MARGIN = 1.25
_Limits = tuple[float, float]


def stored_maps(maps: BeliefMaps) -> dict[MapName, NDArray[Any]]:
    """The maps that a generation stores: those of clues only where the method has them."""
    stored: dict[MapName, NDArray[Any]] = {"pseudo_label": maps.pseudo_label}
    if maps.clues is not None and maps.similarity is not None:
        stored["rectified"] = maps.rectified
        stored["changed"] = np.where(maps.changed, maps.rectified + 1, 0)
        stored["similarity"], stored["clues"] = maps.similarity, maps.clues
    return stored | {"uncertainty": maps.uncertainty, "prediction": maps.prediction}


class Scales:
    """The scales of one generation after the other."""

    def __init__(self) -> None:
        self._volume = ""
        self._before: dict[MapName, _Limits] = {}
        self._seen: dict[MapName, _Limits] = {}
        self._fixed: dict[MapName, Quantisation] = {}

    def begin(self, volume: str) -> None:
        """Start a generation; what another volume held does not count."""
        self._before = self._seen if volume == self._volume else {}
        self._volume, self._seen, self._fixed = volume, {}, {}

    def of(self, name: MapName, planes: NDArray[Any], last: bool) -> Quantisation:
        """The scale of a map, fixed by its first planes; `last`: no planes follow."""
        limits = float(planes.min()), float(planes.max())
        self._seen[name] = _union(limits, self._seen.get(name, limits))
        if name not in self._fixed:
            low, high = _union(limits, self._before.get(name, limits))
            self._fixed[name] = _scale(name, low, high, 1.0 if last else _MARGIN)
        return self._fixed[name]

    def records(self) -> dict[str, MapRecord]:
        """What the generation says of its maps."""
        return {
            name: MapRecord(scale=scale.scale, offset=scale.offset, meaning=MEANINGS[name])
            for name, scale in self._fixed.items()
        }


def _scale(name: MapName, low: float, high: float, margin: float) -> Quantisation:
    if name == "clues":
        return symmetric(margin * low, margin * high)
    if name == "similarity":
        extra = (margin - 1) * (high - low) / 2
        return spanning(low - extra, high + extra)
    return unit() if name == "uncertainty" else exact()


def _union(a: _Limits, b: _Limits) -> _Limits:
    return min(a[0], b[0]), max(a[1], b[1])
