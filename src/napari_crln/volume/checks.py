"""An image against its label: what must hold before both enter a project."""

from __future__ import annotations

from pathlib import Path

from napari_crln.errors import GridMismatch, InvalidLabel
from napari_crln.types import NOT_ANNOTATED, AnnotationDHW, Coverage, ShapeDHW
from napari_crln.volume.geometry import TOLERANCE, Grid
from napari_crln.volume.labels import ClassTable


def check_same_grid(image: Grid, label: Grid, where: str | Path) -> None:
    """Refuse a label that does not lie on its image's grid; both after turning to RAS+.

    Raises
    ------
    GridMismatch
        With both values, if shapes differ or corners lie more than TOLERANCE voxels apart.
    """
    difference = label.difference(image)
    if difference is not None:
        raise GridMismatch(
            f"label and image differ: {difference}",
            f"a label has its image's shape, and corners within {TOLERANCE} voxel of the image's",
            "Resample the label to the image, or pair the right files",
            where,
        )


def check_annotated(annotation: AnnotationDHW, coverage: Coverage, where: str | Path) -> None:
    """Refuse, for a volume that is to teach, a label that says nothing.

    Raises
    ------
    InvalidLabel
        If a dense label has no foreground or leaves voxels out, or a sparse one annotates no voxel.
    """
    if coverage == "dense" and annotation.min() == NOT_ANNOTATED:
        missing = int((annotation == NOT_ANNOTATED).sum())
        raise InvalidLabel(
            f"{missing} voxels are not annotated",
            "a dense label covers every voxel",
            "Declare its coverage sparse, or complete it",
            where,
        )
    lowest = 2 if coverage == "dense" else 1
    if int(annotation.max()) < lowest:
        what = "only background" if coverage == "dense" else "no annotated voxel"
        raise InvalidLabel(
            f"the label is empty: it holds {what}",
            "a labelled volume shows at least one voxel of a class",
            "Give its label, or import the volume as unlabelled",
            where,
        )


def check_annotation(annotation: AnnotationDHW, grid: Grid, classes: ClassTable, where: str | Path) -> None:
    """Refuse an annotation of another shape, a signed dtype, or values beyond the classes."""
    if annotation.shape != grid.shape:
        raise GridMismatch(
            f"annotation of shape {annotation.shape}",
            f"its volume has {grid.shape} (D, H, W)",
            "Give the volume's own",
            where,
        )
    _check_values(annotation, classes, where)


def check_region(
    start: ShapeDHW, values: AnnotationDHW, grid: Grid, classes: ClassTable, where: str | Path
) -> None:
    """Refuse a region of an annotation that does not lie in its volume, or values beyond the classes."""
    stop = tuple(s + n for s, n in zip(start, values.shape, strict=True))
    if min(start) < 0 or any(s > n for s, n in zip(stop, grid.shape, strict=True)) or not values.size:
        raise GridMismatch(
            f"annotation from {tuple(start)} to {stop}",
            f"its volume has {grid.shape} (D, H, W)",
            "Give a region of the volume",
            where,
        )
    _check_values(values, classes, where)


def _check_values(annotation: AnnotationDHW, classes: ClassTable, where: str | Path) -> None:
    highest = int(annotation.max(initial=0))
    if annotation.dtype.kind != "u" or highest > len(classes):
        raise InvalidLabel(
            f"annotation of {annotation.dtype} up to {highest}",
            f"values are unsigned: 0 = not annotated, 1 = background … {len(classes)} = {classes.names[-1]}",
            "Encode the label with the project's class table",
            where,
        )
