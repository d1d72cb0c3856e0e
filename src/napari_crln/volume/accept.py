"""A prediction becomes an annotation: of the whole volume, or of one slice.

What was annotated before is copied first, to `history/annotation-<revision>` of the volume, an OME-Zarr label like the
one that it was; nothing is ever removed from there. Predictions become no truth that models are measured by:
validation and test volumes are refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from napari_crln.durable import creating_folder
from napari_crln.errors import GridMismatch, InvalidLabel, ProjectError
from napari_crln.types import NOT_ANNOTATED, AnnotationDHW, Coverage, LabelDHW
from napari_crln.volume import store
from napari_crln.volume.annotate import Plane, plane_of
from napari_crln.volume.annotation import fill_annotation, read_record, roll_forward
from napari_crln.volume.editing import writing
from napari_crln.volume.journal import LAST
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume

__all__ = [
    "Accepted",
    "Kept",
    "Plane",
    "accept_prediction",
    "keep_annotation",
    "kept_annotations",
    "kept_revisions",
    "replace_annotation",
    "restore_annotation",
]

HISTORY = "history"


class Accepted(NamedTuple):
    """The annotation after acceptance; `kept` is the copy of the one before, if there was one."""

    revision: int
    coverage: Coverage
    kept: Path | None


class Kept(NamedTuple):
    """An annotation in the history.

    Parameters
    ----------
    until : when another took its place and it was copied, s since 1970
    """

    revision: int
    coverage: Coverage
    until: float


def accept_prediction(
    project: Project, name: str, plane: Plane | None = None, *, labels: LabelDHW | None = None
) -> Accepted:
    """Make a volume's prediction its annotation; a copy of the old annotation is kept.

    The role stays: give an unlabelled volume another with `Project.set_role` to train on it.

    Parameters
    ----------
    plane : only this slice, the rest of the annotation as it was; none: the whole volume, which is dense then
    labels : class indices (D, H, W) to accept, for a corrected prediction; none: the stored prediction

    Raises
    ------
    ProjectError
        If there is no such volume or prediction, it is for validation or test, or its annotation changes meanwhile.
    UsageError
        If the slice lies outside the volume.
    GridMismatch, InvalidLabel
        If `labels` are not the volume's.
    """
    volume = _trainable(project, name)
    revision = volume.revision
    accepted = _annotation(volume, volume.read_prediction() if labels is None else labels)
    coverage: Coverage = "dense"
    if plane is not None:
        accepted, coverage = _with_plane(volume, accepted, plane)
    return replace_annotation(volume, accepted, coverage, expected=revision)


def replace_annotation(
    volume: Volume, values: AnnotationDHW, coverage: Coverage, expected: int | None = None
) -> Accepted:
    """Write an annotation in the place of another, which is copied to the history first; nobody saves in between.

    Parameters
    ----------
    values : annotation values, (D, H, W)
    expected : the revision that is replaced; none: whichever there is

    Raises
    ------
    ProjectError
        If another revision than the expected one is there, or another process is writing the annotation.
    """
    with writing(volume.path):
        roll_forward(volume.path)  # else a killed writer's last stroke would count as a save in between
        revision = volume.revision if expected is None else expected
        kept = keep_annotation(volume)
        return Accepted(volume.write_annotation(values, coverage, expected=revision), coverage, kept)


def keep_annotation(volume: Volume) -> Path | None:
    """Copy a volume's annotation to its history; where it went, None if there is none."""
    with writing(volume.path):  # values, coverage and revision of one state
        roll_forward(volume.path)
        if not volume.has_annotation:
            return None
        annotation, revision = volume.read_annotated()
        coverage = volume.coverage or "dense"
        target = volume.path / HISTORY / f"annotation-{revision}"
        if not target.exists():
            with creating_folder(target) as folder:
                fill_annotation(folder, annotation, volume.grid, volume.classes, coverage, revision=revision)
        return target


def kept_revisions(volume: Volume) -> list[int]:
    """Revisions of the annotation that the history has, oldest first."""
    folder = volume.path / HISTORY
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(found[1]) for name in names if (found := re.fullmatch(r"annotation-(\d+)", name)))


def kept_annotations(volume: Volume) -> list[Kept]:
    """What the history has, oldest first."""
    return [_kept(volume, revision) for revision in kept_revisions(volume)]


def restore_annotation(volume: Volume, revision: int) -> Accepted:
    """Bring an annotation back from the history, as a new revision; the present one is copied there first.

    Raises
    ------
    ProjectError
        If the history has no such revision, or another process is writing the annotation.
    """
    if revision not in kept_revisions(volume):
        have = ", ".join(map(str, kept_revisions(volume))) or "none"
        raise ProjectError(
            f"no revision {revision}", f"its history has {have}", "Choose one of them", volume.path
        )
    folder = volume.path / HISTORY / f"annotation-{revision}"
    coverage = read_record(folder).coverage
    return replace_annotation(volume, store.read(folder / "0"), coverage)


def _kept(volume: Volume, revision: int) -> Kept:
    folder = volume.path / HISTORY / f"annotation-{revision}"
    return Kept(revision, read_record(folder).coverage, (folder / LAST).stat().st_mtime)


def _trainable(project: Project, name: str) -> Volume:
    project.refresh()
    volume = project.volume(name)
    if volume.role in {"validation", "test"}:
        raise ProjectError(
            f"role {volume.role}",
            "a prediction is no truth to measure models by",
            "Correct and save its annotation by hand, or give the volume another role first",
            volume.path,
        )
    return volume


def _annotation(volume: Volume, labels: LabelDHW) -> AnnotationDHW:
    """Class indices to annotation values, checked."""
    if tuple(labels.shape) != volume.grid.shape:
        raise GridMismatch(
            f"labels of shape {tuple(labels.shape)}",
            f"the volume has {volume.grid.shape} (D, H, W)",
            "Give the volume's own",
            volume.name,
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(volume.classes):
        raise InvalidLabel(
            f"labels of {labels.dtype}, {labels.min()} to {labels.max()}",
            f"a prediction holds class indices 0 to {len(volume.classes) - 1}",
            "Give class indices",
            volume.name,
        )
    annotation = labels.astype(volume.classes.index_dtype)
    annotation += 1
    return annotation


def _with_plane(volume: Volume, accepted: AnnotationDHW, plane: Plane) -> tuple[AnnotationDHW, Coverage]:
    """The annotation so far, with one slice of the accepted one."""
    start, size = plane_of(plane, volume.grid.shape, volume.name)
    before = volume.read_annotation() if volume.has_annotation else np.full_like(accepted, NOT_ANNOTATED)
    where = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
    before[where] = accepted[where]
    return before, volume.coverage or "sparse"
