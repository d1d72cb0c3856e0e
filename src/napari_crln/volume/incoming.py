"""A volume on its way into a project: every check, the measured normalisation, then the writing.

All checks come before the first byte, so that a refusal costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_crln.errors import GridMismatch, ProjectError, UsageError
from napari_crln.types import AnnotationDHW, AnyPath, Coverage, ImageDHW, Role
from napari_crln.volume import ome, pyramid, store
from napari_crln.volume.annotation import fill_annotation, list_labels
from napari_crln.volume.checks import check_annotated, check_annotation
from napari_crln.volume.geometry import Grid
from napari_crln.volume.intensity import Kind, Scaling, measure
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.seal import KEY
from napari_crln.volume.source import Source
from napari_crln.volume.stored import VolumeRecord

#: Roles whose volumes must carry an annotation.
ANNOTATED_ROLES: tuple[Role, ...] = ("labelled", "validation")


@dataclass(frozen=True, eq=False)
class Incoming:
    """What `Project.add` takes: see there."""

    name: str
    image: ImageDHW
    grid: Grid
    role: Role
    annotation: AnnotationDHW | None = None
    coverage: Coverage = "dense"
    scaling: Scaling = (1.0, 0.0)
    source: Source | None = None
    image_file: AnyPath | None = None
    label_file: AnyPath | None = None


def store_incoming(volume: Incoming, folder: Path, classes: ClassTable, kind: Kind) -> None:
    """Check a volume, measure its normalisation, and fill a new folder with it; nothing is synced here.

    Raises
    ------
    GridMismatch, InvalidIntensity, InvalidLabel, ProjectError, UsageError
        Before anything is written.
    """
    record = _checked(volume, classes, kind)
    levels = pyramid.plan(volume.grid.shape, volume.grid.spacing)
    attributes = {"ome": ome.image(volume.name, levels, "image"), KEY: record.model_dump(mode="json")}
    store.write_multiscale(folder, volume.image, levels, "image", attributes)
    if volume.annotation is not None:
        target = folder / "labels" / "annotation"
        fill_annotation(target, volume.annotation, volume.grid, classes, volume.coverage)
        list_labels(folder)


def check_role(role: Role, annotated: bool, where: AnyPath) -> None:
    """Refuse a role that needs a label for a volume that has none."""
    if role in ANNOTATED_ROLES and not annotated:
        raise ProjectError(
            f"role {role} without a label",
            "labelled and validation volumes carry one",
            "Give its label",
            where,
        )


def _checked(volume: Incoming, classes: ClassTable, kind: Kind) -> VolumeRecord:
    where = volume.image_file or volume.name
    if tuple(volume.image.shape) != volume.grid.shape:
        raise GridMismatch(
            f"image of shape {tuple(volume.image.shape)}",
            f"its grid has {volume.grid.shape} (D, H, W)",
            "Give both alike",
            where,
        )
    check_role(volume.role, volume.annotation is not None, where)
    normalisation = measure(volume.image, kind, volume.scaling, where)
    _check_label(volume, classes)
    rows = tuple(tuple(float(v) for v in row) for row in volume.grid.affine)
    return VolumeRecord(
        affine=rows, scaling=volume.scaling, normalisation=normalisation, source=volume.source
    )


def _check_label(volume: Incoming, classes: ClassTable) -> None:
    if volume.annotation is None:
        return
    where = volume.label_file or volume.name
    if volume.role == "unlabelled":
        raise UsageError(
            "a label for role unlabelled",
            "an unlabelled volume carries none",
            "Drop the label, or the role",
            where,
        )
    check_annotation(volume.annotation, volume.grid, classes, where)
    if volume.role == "labelled":
        check_annotated(volume.annotation, volume.coverage, where)
