"""What the panel reads of a project's files; all of it may take a while and is called in threads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.errors import CrlnError, ProjectError
from napari_crln.events import ENVIRONMENT_FILE
from napari_crln.gui.following import is_trained
from napari_crln.gui.model import ProjectView, VolumeRow
from napari_crln.run.folder import RUNS, RunFolder, runs
from napari_crln.types import AnnotationDHW, Coverage, LabelDHW
from napari_crln.volume.accept import kept_annotations
from napari_crln.volume.geometry import Grid
from napari_crln.volume.manifest import FILE as MANIFEST
from napari_crln.volume.project import Project
from napari_crln.volume.proofread import restorable
from napari_crln.volume.stored import Volume

#: A larger image is given to the viewer lazily, as a pyramid.
IN_MEMORY_BYTES = 1 << 29


@dataclass(frozen=True)
class Opened:
    """A project, and the run to watch: the one being trained, else the newest."""

    project: ProjectView
    run: Path | None


@dataclass(frozen=True, eq=False)
class VolumeData:
    """A volume for the viewer.

    Parameters
    ----------
    image : in its stored values, or a pyramid, finest first
    labels : class indices of an annotation that is only looked at: of validation and test volumes
    annotation : annotation values, where they may be painted on; None if there are none
    stored : the same in memory of its own, to compare with; copied here, as this is a thread
    revision, coverage : of the annotation; 0 and None without one
    """

    name: str
    grid: Grid
    image: NDArray[Any] | list[Any]
    limits: tuple[float, float]
    labels: LabelDHW | None
    prediction: LabelDHW | None
    annotation: AnnotationDHW | None = None
    revision: int = 0
    coverage: Coverage | None = None
    paintable: bool = False
    stored: AnnotationDHW | None = None


def read_project(path: Path) -> Opened:
    """Open a project, by its own folder or by that of one of its runs, which is watched then.

    Raises
    ------
    ProjectError, VolumeError
        If it is none, or is damaged.
    """
    chosen = path if (path / ENVIRONMENT_FILE).is_file() else None
    if path.name == RUNS and chosen is None and (path.parent / MANIFEST).is_file():
        raise ProjectError(
            "the folder of all runs",
            "one run is watched at a time",
            "Choose the folder of one run in it",
            path,
        )
    path = path if chosen is None else chosen.resolve().parent.parent
    project = Project.open(path)
    found = runs(path)
    rows, names = tuple(map(_row, project.volumes.values())), tuple(run.name for run in found)
    view = ProjectView(path, project.name, tuple(project.classes), rows, names, project.preset)
    return Opened(view, _to_watch(found) if chosen is None else path / RUNS / chosen.resolve().name)


def read_volume(path: Path, name: str) -> VolumeData:
    """Image, labels and prediction of a volume."""
    volume = Project.open(path).volume(name)
    image = _image(volume)
    limits = _limits(image[-1] if isinstance(image, list) else image)
    paintable = volume.role in ("labelled", "unlabelled")
    annotated = volume.read_annotated() if volume.has_annotation else None
    prediction = volume.read_prediction() if volume.has_prediction else None
    common = (name, volume.grid, image, limits)
    if annotated is None:
        return VolumeData(*common, None, prediction, paintable=paintable)
    if not paintable:
        return VolumeData(*common, _class_indices(annotated.values), prediction)
    values, revision = annotated
    return VolumeData(
        *common, None, prediction, values, revision, volume.coverage, paintable=True, stored=values.copy()
    )


def _row(volume: Volume) -> VolumeRow:
    """One that is damaged is told as such: training and prediction leave it out, too."""
    try:
        return VolumeRow(
            volume.name, volume.role, volume.grid.shape, volume.coverage, volume.has_prediction,
            volume.revision, restorable(volume), tuple(kept_annotations(volume)),
        )  # fmt: skip
    except CrlnError as error:
        return VolumeRow(volume.name, volume.role, (0, 0, 0), fault=str(error))


def _to_watch(found: list[RunFolder]) -> Path | None:
    trained = [run for run in found if is_trained(run.path)]
    newest = (trained or found)[-1:]
    return newest[0].path if newest else None


def _image(volume: Volume) -> NDArray[Any] | list[Any]:
    if volume.image.nbytes <= IN_MEMORY_BYTES:
        return volume.read_image()
    import dask.array as da

    return [da.from_array(level, chunks=level.chunks, name=False) for level in volume.open_levels()]


def _limits(image: Any) -> tuple[float, float]:
    """Contrast limits without the outliers, from some 64³ voxels."""
    thinned = np.asarray(image[tuple(slice(None, None, max(1, n // 64)) for n in image.shape)])
    low, high = np.percentile(thinned, (0.5, 99.5))
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1.0)


def _class_indices(values: AnnotationDHW) -> LabelDHW:
    """An annotation as class indices; voxels that nobody annotated look like background."""
    return values - (values > 0).astype(values.dtype)
