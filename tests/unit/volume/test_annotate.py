"""Strokes on a project's volumes, and the roles that follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_crln.types import Role
from napari_crln.volume.annotate import save_region
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
