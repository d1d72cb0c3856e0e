"""Annotating a project's volumes by hand: strokes, and the roles that follow from them.

A volume that gains its first annotated voxel becomes labelled, and one that loses its last becomes unlabelled again: the
roles say what training may use. Validation and test volumes keep theirs whatever is painted on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_crln.errors import UsageError
from napari_crln.types import AnnotationDHW, Coverage, Role, ShapeDHW
from napari_crln.volume import blank
from napari_crln.volume.editing import writing
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume

#: Annotation value of the background.
BACKGROUND = 1


@dataclass(frozen=True)
class Plane:
    """One slice: axis 0, 1 or 2 (D, H, W) and its index."""

    axis: int
    index: int


class Saved(NamedTuple):
    """An annotation after a change."""

    revision: int
    coverage: Coverage
    role: Role
    annotated: int


def save_region(
    project_path: Path,
    name: str,
    start: ShapeDHW,
    values: AnnotationDHW,
    where: NDArray[np.bool_] | None = None,
    *,
    tidy: bool = True,
) -> Saved:
    """Change a region of a volume's annotation, and its role if that follows.

    Parameters and errors as of `annotation.write_region`; ProjectError also if there is no such volume.
    """
    project = Project.open(project_path)
    volume = project.volume(name)
    with writing(volume.path):
        blank.adopt(volume)
        revision = volume.write_annotation_region(start, values, where, tidy=tidy)
    return Saved(revision, volume.coverage or "sparse", _follow(project, volume), volume.annotated)


def plane_of(plane: Plane, shape: ShapeDHW, where: str = "") -> tuple[ShapeDHW, ShapeDHW]:
    """First voxel and shape of a slice as a region of a volume; raises UsageError for one that lies outside."""
    if plane.axis not in (0, 1, 2) or not 0 <= plane.index < shape[plane.axis]:
        raise UsageError(
            f"slice {plane.index} along axis {plane.axis}",
            f"the volume has {shape} slices along axes 0, 1, 2",
            "Choose a slice inside",
            where,
        )
    start, size = [0, 0, 0], list(shape)
    start[plane.axis], size[plane.axis] = plane.index, 1
    return (start[0], start[1], start[2]), (size[0], size[1], size[2])


def _follow(project: Project, volume: Volume) -> Role:
    """Move a volume between labelled and unlabelled by whether anything is annotated."""
    if volume.role not in ("labelled", "unlabelled"):
        return volume.role
    role: Role = "labelled" if volume.annotated else "unlabelled"
    return volume.role if role == volume.role else project.set_role(volume.name, role).role
