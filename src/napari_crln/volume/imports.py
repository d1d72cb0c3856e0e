"""NIfTI files into a project: one image, with its label if it has one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np

from napari_crln.errors import InvalidLabel
from napari_crln.types import AnnotationDHW, AnyPath, Coverage, Role
from napari_crln.volume.checks import check_same_grid
from napari_crln.volume.incoming import Incoming
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.nifti import Loaded, read_image, read_label
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume


class Case(NamedTuple):
    """An image file, its label file if any, and what they become in a project."""

    name: str
    image: Path
    label: Path | None
    role: Role
    coverage: Coverage = "dense"
    ignore: int | None = None


def import_nifti(
    project: Project,
    image_path: AnyPath,
    label_path: AnyPath | None = None,
    role: Role = "unlabelled",
    coverage: Coverage = "dense",
    *,
    name: str | None = None,
    ignore: int | None = None,
) -> Volume:
    """Add a NIfTI image, with its label if it has one; a bad file changes nothing.

    A dense label holds the classes' source ids. A sparse one either does so too, with the id `ignore` where
    nobody annotated, or (`ignore` none) holds annotation values: 0 = not annotated, 1 = background,
    k + 1 = class k.

    Raises
    ------
    UnreadableFile, InvalidIntensity, InvalidLabel, GridMismatch, ProjectError
    """
    image_path = Path(image_path)
    label = None if label_path is None else Path(label_path)
    case = Case(name or normalize("NFC", case_name(image_path)), image_path, label, role, coverage, ignore)
    project.refresh()
    project.check_new(case.name)
    return project.add_incoming(load_case(case, project.classes))


def load_case(case: Case, classes: ClassTable) -> Incoming:
    """Read an image and its label, check that they fit together, and encode the label."""
    image = read_image(case.image)
    annotation = None
    if case.label is not None:
        label = read_label(case.label)
        check_same_grid(image.grid, label.grid, case.label)
        annotation = _annotation(label, case, classes)
    return Incoming(
        case.name,
        image.voxels,
        image.grid,
        case.role,
        annotation,
        case.coverage,
        image.scaling,
        image.source,
        case.image,
        case.label,
    )


def case_name(path: Path) -> str:
    """File name without .nii or .nii.gz."""
    lower = path.name.lower()
    return next((path.name[: -len(end)] for end in (".nii.gz", ".nii") if lower.endswith(end)), path.stem)


def _annotation(label: Loaded, case: Case, classes: ClassTable) -> AnnotationDHW:
    if case.coverage == "sparse" and case.ignore is None:
        return _stored_values(label, case, classes)
    return classes.encode(label.voxels, ignore=case.ignore, where=case.label)


def _stored_values(label: Loaded, case: Case, classes: ClassTable) -> AnnotationDHW:
    low, high = int(label.voxels.min()), int(label.voxels.max())
    if low < 0 or high > len(classes):
        raise InvalidLabel(
            f"values {low} to {high}",
            f"a sparse label holds 0 = not annotated, 1 = background … {len(classes)} = {classes.names[-1]}",
            "Renumber it, or name the id that means not annotated",
            case.label,
        )
    return np.asarray(label.voxels.astype(classes.index_dtype))
