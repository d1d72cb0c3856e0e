"""Oblique volumes of a project: shown along the world's axes, and written where they truly lie."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_crln.gui.layer_data import placement, true_affine, upright, upright_placement
from napari_crln.gui.layer_geometry import place
from napari_crln.gui.tags import tag
from napari_crln.volume.geometry import Grid

layers = pytest.importorskip("napari.layers")

SHAPE = (6, 7, 9)


def rotation(degrees: float) -> NDArray[np.float64]:
    """About x, (3, 3) of (x, y, z)."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])


def tilted(degrees: float) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) @ np.diag([0.8, 1.0, 3.0])
    affine[:3, 3] = (20.0, -30.0, 40.0)
    return Grid(SHAPE, affine)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_a_grid_along_the_world_s_axes_stays_mirrored_or_not(signs: tuple[int, int, int]) -> None:
    affine = np.diag([*(np.array(signs) * (0.8, 1.0, 3.0)), 1.0])
    affine[:3, 3] = (1, 2, 3)
    grid = Grid(SHAPE, affine)
    assert upright(grid) is grid
    assert true_affine(grid) == {}
    np.testing.assert_array_equal(upright_placement(grid)["affine"], placement(grid)["affine"])


@pytest.mark.parametrize("degrees", [3, 20, 45, 90])
def test_an_oblique_grid_is_turned_about_its_middle(degrees: float) -> None:
    grid = tilted(degrees)
    straight = upright(grid)
    np.testing.assert_allclose(straight.affine[:3, :3], np.diag([0.8, 1.0, 3.0]))
    np.testing.assert_allclose(straight.corners().mean(0), grid.corners().mean(0))


def test_what_is_made_of_a_layer_lies_where_the_volume_does_until_somebody_moves_it() -> None:
    grid = tilted(20)
    metadata = tag("annotation", volume="a", **true_affine(grid))
    layer = layers.Labels(np.zeros(SHAPE, np.uint8), metadata=metadata, **upright_placement(grid))
    data, state, _ = layer.as_layer_data_tuple()
    np.testing.assert_allclose(place(data, state, "a").affine, grid.affine)
    layer.translate = (0, 0, 5)
    data, state, _ = layer.as_layer_data_tuple()
    moved = upright(grid).affine.copy()
    moved[0, 3] += 5 * 0.8  # voxels along x
    np.testing.assert_allclose(place(data, state, "a").affine, moved)
