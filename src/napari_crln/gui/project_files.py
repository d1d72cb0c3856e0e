"""What the panel reads of a project's files; all of it may take a while and is called in threads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.gui.following import is_trained
from napari_crln.gui.model import ProjectView, VolumeRow
from napari_crln.run.folder import RunFolder, runs
from napari_crln.types import LabelDHW
from napari_crln.volume.geometry import Grid
from napari_crln.volume.project import Project
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
    """A volume for the viewer: image in its stored values (or pyramid, finest first), and labels as class indices."""

    name: str
    grid: Grid
    image: NDArray[Any] | list[Any]
    limits: tuple[float, float]
    labels: LabelDHW | None
    prediction: LabelDHW | None


def read_project(path: Path) -> Opened:
    """Open a project.

    Raises
    ------
    ProjectError, VolumeError
        If it is none, or is damaged.
    """
    project = Project.open(path)
    found = runs(path)
    rows, names = tuple(map(_row, project.volumes.values())), tuple(run.name for run in found)
    return Opened(ProjectView(path, project.name, tuple(project.classes), rows, names), _to_watch(found))


def read_volume(path: Path, name: str) -> VolumeData:
    """Image, labels and prediction of a volume."""
    volume = Project.open(path).volume(name)
    image = _image(volume)
    limits = _limits(image[-1] if isinstance(image, list) else image)
    labels = _class_indices(volume) if volume.has_annotation else None
    prediction = volume.read_prediction() if volume.has_prediction else None
    return VolumeData(name, volume.grid, image, limits, labels, prediction)


def _row(volume: Volume) -> VolumeRow:
    return VolumeRow(volume.name, volume.role, volume.grid.shape, volume.coverage, volume.has_prediction)


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


def _class_indices(volume: Volume) -> LabelDHW:
    """The annotation as class indices; voxels that nobody annotated look like background."""
    values = volume.read_annotation()
    return values - (values > 0).astype(values.dtype)
