"""What a person does with a prediction that is good: accept it, think better of it. The volume's role follows.

An unlabelled volume of which something is annotated becomes labelled, so that training learns from it; a labelled
one whose annotation is taken back becomes unlabelled again. Validation and test volumes keep their role.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from napari_crln.errors import InvalidLabel, ProjectError
from napari_crln.types import NOT_ANNOTATED, Coverage, Role
from napari_crln.volume.accept import (
    Accepted,
    Plane,
    accept_prediction,
    kept_revisions,
    replace_annotation,
    restore_annotation,
)
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume

#: As a revision: the state before the first annotation.
NONE_YET = 0


class Outcome(NamedTuple):
    """A volume after its annotation was replaced.

    Parameters
    ----------
    revision, coverage : of the annotation now
    kept : copy of the annotation before; None if there was none
    role, was : the volume's role now, and before
    """

    revision: int
    coverage: Coverage
    kept: Path | None
    role: Role
    was: Role


def accept(project: Project, name: str, plane: Plane | None = None) -> Outcome:
    """Make a stored prediction, or one slice of it, the volume's annotation; an unlabelled volume becomes labelled.

    Raises
    ------
    InvalidLabel
        If the whole prediction is background: it would teach that nothing is there.
    ProjectError, UsageError
        As of `accept_prediction`.
    """
    project.refresh()
    volume = project.volume(name)
    labels = volume.read_prediction()
    if plane is None and not labels.any():
        raise InvalidLabel(
            "the prediction is all background",
            "a labelled volume shows at least one voxel of a class",
            "Train longer, or accept single slices",
            volume.path,
        )
    return _followed(project, volume, accept_prediction(project, name, plane, labels=labels))


def restore(project: Project, name: str, revision: int) -> Outcome:
    """Bring an annotation back from the volume's history; the present one is copied there first.

    Parameters
    ----------
    revision : one of `restorable`; `NONE_YET` takes the annotation back, as if nothing had been annotated

    Raises
    ------
    ProjectError
        If the history has no such revision, or a validation or test volume would lose its labels.
    """
    project.refresh()
    volume = project.volume(name)
    if revision != NONE_YET:
        return _followed(project, volume, restore_annotation(volume, revision))
    if revision not in restorable(volume):
        raise ProjectError(
            "nothing to take back" if volume.revision == NONE_YET else f"role {volume.role}",
            "only an annotation that is there, of a volume that is trained on, is taken back",
            "Choose a revision of its history, or another volume",
            volume.path,
        )
    empty = np.full(volume.grid.shape, NOT_ANNOTATED, volume.classes.index_dtype)
    return _followed(project, volume, replace_annotation(volume, empty, "sparse"))


def restorable(volume: Volume) -> tuple[int, ...]:
    """What `restore` takes, newest first; ends with `NONE_YET` where an annotation may be taken back."""
    now = volume.revision
    earlier = [revision for revision in kept_revisions(volume) if revision != now]
    may_be_bare = now != NONE_YET and volume.role in ("labelled", "unlabelled")
    return (*reversed(earlier), *((NONE_YET,) if may_be_bare else ()))


def _followed(project: Project, volume: Volume, done: Accepted) -> Outcome:
    """Let the role follow the annotation."""
    project.refresh()  # who wrote the annotation may have changed the role already
    role = project.volume(volume.name).role
    if role in ("labelled", "unlabelled"):
        wanted: Role = "labelled" if bool(volume.read_annotation().any()) else "unlabelled"
        if wanted != role:
            role = project.set_role(volume.name, wanted).role
    return Outcome(*done, role, volume.role)
