"""A sample project on disk: the synthetic cohort, few volumes labelled, ready to train."""

from __future__ import annotations

from pathlib import Path

from napari_crln.types import Role, ShapeDHW
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.phantom import CLASSES, SPACING, phantom_cohort
from napari_crln.volume.project import Project

SHAPE: ShapeDHW = (32, 48, 48)
ROLES: tuple[Role, ...] = (*("labelled",) * 4, *("unlabelled",) * 8, *("test",) * 2)


def make_sample_project(path: Path, shape: ShapeDHW = SHAPE, roles: tuple[Role, ...] = ROLES) -> Path:
    """Write the cohort into a new project folder, and return it; test volumes keep their truth for evaluating.

    Raises
    ------
    ProjectError
        If the path exists.
    """
    classes = ClassTable.from_ids({name: index for index, name in enumerate(("background", *CLASSES))})
    path.parent.mkdir(parents=True, exist_ok=True)
    project = Project.create(path, classes)
    grid = Grid.from_spacing(shape, SPACING)
    for phantom, role in zip(phantom_cohort(len(roles), shape=shape), roles, strict=True):
        annotation = None if role == "unlabelled" else classes.encode(phantom.labels)
        project.add(phantom.name, phantom.image, grid, role, annotation)
    return path
