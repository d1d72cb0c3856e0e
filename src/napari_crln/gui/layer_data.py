"""How a volume lies in napari: the placement that every layer of it shares.

napari counts axes as the array does, D, H, W = z, y, x, and so do its affine, units and axis labels; the affines of
this package map (x, y, z). Turning both sides round is all there is to it. napari's world is then RAS+
millimetres, so that volumes of one patient overlie one another.

Volumes of a project that were acquired obliquely are laid along the world's axes, about their own middle: in 2D napari (0.9) slices
along the world's axes only, so that of an oblique volume no slice could be annotated as it was acquired, and some not be
reached. Their true affine goes with their layers (`true_affine` in the tag), and into every file that is made of them.
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


def upright_placement(grid: Grid) -> dict[str, Any]:
    """`placement` of a volume of a project: along the world's axes, whatever its own directions are."""
    return placement(upright(grid))


def true_affine(grid: Grid) -> dict[str, Any]:
    """What the tag of a layer in `upright_placement` says of its place; empty where that is the true one."""
    return {} if upright(grid) is grid else {"true_affine": grid.affine.tolist()}


def upright(grid: Grid) -> Grid:
    """A grid laid along the world's axes, turned about its middle; the same one where it lies along them, mirrored or not."""
    straight = _about_its_middle(grid, np.diag(np.diag(grid.affine)[:3]))
    if straight is not None and straight.difference(grid) is None:
        return grid
    turned = _about_its_middle(grid, np.diag(grid.spacing[::-1]))
    assert turned is not None
    return turned


def _about_its_middle(grid: Grid, directions: Affine) -> Grid | None:
    """The grid with other directions (3, 3) and the same middle; None where they are none."""
    if not np.diag(directions).all():
        return None
    d, h, w = grid.shape
    middle = (np.array([w, h, d]) - 1) / 2
    affine = np.eye(4)
    affine[:3, :3] = directions
    affine[:3, 3] = grid.affine[:3, :3] @ middle + grid.affine[:3, 3] - directions @ middle
    return Grid(grid.shape, affine)


def napari_affine(affine: Affine) -> Affine:
    """The affine (x, y, z) → (x, y, z) as (z, y, x) → (z, y, x), (4, 4)."""
    return np.asarray(affine[np.ix_(_REVERSED, _REVERSED)], dtype=np.float64)
