"""A sample project on disk: synthetic organs, few of them labelled, ready to train; of the demo and the panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from napari_crln.types import Role, ShapeDHW
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.phantom import CLASSES, SPACING, phantom_cohort
from napari_crln.volume.project import Project

SHAPE: ShapeDHW = (40, 56, 56)
ROLES: tuple[Role, ...] = (*("labelled",) * 8, *("unlabelled",) * 12, *("test",) * 6)
#: Made for these phantoms: a minute or two on two CPU cores.
PRESET = "demo"


def make_sample_project(
    path: Path,
    shape: ShapeDHW = SHAPE,
    roles: Sequence[Role] = ROLES,
    *,
    seed: int = 0,
    preset: str | None = PRESET,
    tell: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Write the cohort into a new project folder, and return it; test volumes keep their truth for evaluating.

    Parameters
    ----------
    shape : of each volume, voxels (D, H, W)
    roles : of the volumes, in order
    preset : that new runs begin with; none: sizes by the data
    tell : called after each volume with how many are written, of how many, and its role

    Raises
    ------
    ProjectError
        If the path exists.
    """
    classes = ClassTable.from_ids({name: index for index, name in enumerate(("background", *CLASSES))})
    path.parent.mkdir(parents=True, exist_ok=True)
    project = Project.create(path, classes, preset=preset)
    grid = Grid.from_spacing(shape, SPACING)
    for number, (phantom, role) in enumerate(
        zip(phantom_cohort(len(roles), seed, shape), roles, strict=True)
    ):
        annotation = None if role == "unlabelled" else classes.encode(phantom.labels)
        project.add(phantom.name, phantom.image, grid, role, annotation)
        if tell is not None:
            tell(number + 1, len(roles), role)
    return path
