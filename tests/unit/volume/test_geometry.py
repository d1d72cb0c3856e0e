from __future__ import annotations

import numpy as np
import pytest

from napari_crln.errors import GridMismatch
from napari_crln.volume.geometry import Grid


def test_spacing_is_along_d_h_w() -> None:
    grid = Grid((2, 3, 4), np.diag([0.5, 1.0, 3.0, 1.0]))
    assert grid.spacing == (3.0, 1.0, 0.5)
    assert Grid.from_spacing((2, 3, 4), (3.0, 1.0, 0.5)) == grid


def test_spacing_survives_rotation() -> None:
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([2.0, 3.0, 4.0])
    np.testing.assert_allclose(Grid((1, 1, 1), affine).spacing, (4, 3, 2))


def test_corners_follow_the_axis_order() -> None:
    corners = Grid((2, 3, 4), np.eye(4)).corners()
    assert corners.max(axis=0).tolist() == [3, 2, 1]  # x, y, z


def test_affine_is_a_frozen_copy() -> None:
    given = np.eye(4)
    grid = Grid((1, 1, 1), given)
    given[0, 0] = 9
    assert grid.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 2


def test_difference_tolerates_rounding_and_names_both_values() -> None:
    grid = Grid((10, 10, 10), np.eye(4))
    near, far = np.eye(4), np.eye(4)
    near[0, 3], far[0, 3] = 0.04, 0.06
    assert grid.difference(Grid((10, 10, 10), near)) is None
    message = grid.difference(Grid((10, 10, 10), far))
    assert message is not None
    assert "0.06" in message
    assert "[1 0 0 0;" in message
    assert (
        grid.difference(Grid((10, 10, 9), np.eye(4)))
        == "shape (10, 10, 10) against (10, 10, 9) voxels (D, H, W)"
    )


def test_a_small_step_error_adds_up_over_the_volume() -> None:
    affine = np.diag([1.001, 1, 1, 1])
    assert Grid((10, 10, 10), np.eye(4)).difference(Grid((10, 10, 10), affine)) is None
    assert Grid((10, 10, 100), np.eye(4)).difference(Grid((10, 10, 100), affine)) is not None


def test_step_of_a_single_slice_counts() -> None:
    assert Grid((1, 9, 9), np.eye(4)).difference(Grid((1, 9, 9), np.diag([1, 1, 5, 1]))) is not None


@pytest.mark.parametrize(
    ("affine", "words"),
    [
        (np.diag([1, 0, 1, 1]), "every spacing is above zero"),
        (np.diag([1, np.nan, 1, 1]), "finite"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "independent directions"),
        (np.eye(3), "4 × 4"),
    ],
)
def test_bad_affines(affine: np.ndarray, words: str) -> None:
    with pytest.raises(GridMismatch, match=words):
        Grid((2, 2, 2), affine)


@pytest.mark.parametrize("shape", [(2, 2), (0, 2, 2), (2, 2, 2, 2)])
def test_bad_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(GridMismatch, match="three axes"):
        Grid(shape, np.eye(4))  # type: ignore[arg-type]
