"""Strokes and complete slices of a project's volumes, and the roles that follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_crln.errors import UsageError
from napari_crln.types import Role
from napari_crln.volume.annotate import Plane, complete_plane, save_region
from napari_crln.volume.geometry import Grid
from napari_crln.volume.project import Project

U8 = NDArray[np.uint8]
SHAPE = (6, 7, 8)


def stroke(value: int) -> U8:
    return np.full((1, 2, 3), value, np.uint8)


@pytest.fixture
def path(project: Project, image: U8) -> Path:
    project.add("a", image, Grid.from_spacing(SHAPE), "unlabelled")
    return project.path


def test_the_first_voxel_makes_a_volume_labelled_and_the_last_one_unlabelled_again(path: Path) -> None:
    saved = save_region(path, "a", (1, 2, 3), stroke(2))
    assert saved == (1, "sparse", "labelled", 6)
    assert Project.open(path).volumes["a"].role == "labelled"
    assert save_region(path, "a", (1, 2, 3), stroke(0)[:, :1]) == (2, "sparse", "labelled", 3)
    assert save_region(path, "a", (1, 2, 3), stroke(0)) == (3, "sparse", "unlabelled", 0)
    assert Project.open(path).volumes["a"].role == "unlabelled"


@pytest.mark.parametrize("role", ["validation", "test"])
def test_volumes_that_models_are_measured_by_never_move(
    project: Project, image: U8, annotation: U8, role: Role
) -> None:
    project.add("m", image, Grid.from_spacing(SHAPE), role, annotation)
    assert save_region(project.path, "m", (1, 2, 3), stroke(2)).role == role
    assert save_region(project.path, "m", (0, 0, 0), np.zeros(SHAPE, np.uint8)).role == role
    assert Project.open(project.path).volumes["m"].role == role


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_complete_slice_is_background_where_nothing_was_painted(path: Path, axis: int) -> None:
    save_region(path, "a", (3, 3, 3), stroke(2))
    before = Project.open(path).volumes["a"].read_annotation()
    complete_plane(path, "a", Plane(axis, 3))
    after = Project.open(path).volumes["a"].read_annotation()
    plane = np.zeros(SHAPE, np.bool_)
    plane[(slice(None),) * axis + (3,)] = True
    np.testing.assert_array_equal(after, np.where(plane & (before == 0), 1, before))
    assert before.any()


def test_a_slice_may_be_the_first_thing_annotated(path: Path) -> None:
    saved = complete_plane(path, "a", Plane(1, 6))
    assert saved == (1, "sparse", "labelled", 48)
    assert (Project.open(path).volumes["a"].read_targets() == 0).sum() == 48


@pytest.mark.parametrize("plane", [Plane(0, 6), Plane(1, -1), Plane(3, 0)])
def test_a_slice_outside_is_refused(path: Path, plane: Plane) -> None:
    with pytest.raises(UsageError, match="slice"):
        complete_plane(path, "a", plane)
    assert not Project.open(path).volumes["a"].has_annotation
