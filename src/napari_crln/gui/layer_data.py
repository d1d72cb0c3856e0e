"""How a stored volume lies in napari: the placement that every layer of it shares.

napari counts axes as the array does, D, H, W = z, y, x, and so do its affine, units and axis labels; the affines of
this package map (x, y, z). Turning both sides round is all there is to it. napari's world is then RAS+
millimetres, so that volumes of one patient overlie one another.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from napari_crln.types import Affine
from napari_crln.volume.geometry import Grid

#: napari's LayerData: array, keyword arguments of the layer, its type.
Layer: TypeAlias = tuple[Any, dict[str, Any], str]

_REVERSED = np.array([2, 1, 0, 3])


def placement(grid: Grid) -> dict[str, Any]:
    """Units, axis labels and affine of a layer on this grid.

    In this order they may be set on a layer, too: napari slices points by an inverse that it has made before new units came,
    if no new affine follows them, and shows none.
    """
    return {"units": ("mm",) * 3, "axis_labels": ("z", "y", "x"), "affine": napari_affine(grid.affine)}


def napari_affine(affine: Affine) -> Affine:
    """The affine (x, y, z) → (x, y, z) as (z, y, x) → (z, y, x), (4, 4)."""
    return np.asarray(affine[np.ix_(_REVERSED, _REVERSED)], dtype=np.float64)
