"""Layers of one volume of a project, placed and tagged: image, annotation to paint on, prediction.

Images and predictions are read as they are looked at, coarser levels first where there are any. The annotation is
single-scale and in memory, since napari cannot paint on anything else; values are those that are stored: 0 = not
annotated, 1 = background, k + 1 = class k.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_crln.gui.label_look import class_look
from napari_crln.gui.layer_data import Layer, true_affine, upright_placement
from napari_crln.gui.tags import tag
from napari_crln.volume import store
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume


def volume_layers(project: Project, volume: Volume, *, visible: bool = True) -> list[Layer]:
    """Its image, prediction and annotation, as far as it has them, bottom to top."""
    layers = [image_layer(project, volume, visible=visible)]
    if volume.has_prediction:
        layers.append(prediction_layer(project, volume, visible=visible and not volume.has_annotation))
    if volume.has_annotation:
        layers.append(annotation_layer(project, volume, visible=visible))
    return layers


def image_layer(project: Project, volume: Volume, *, visible: bool = True) -> Layer:
    """The image, lazy, in its stored values; contrast as the network's input is clipped."""
    low, high = volume.normalisation.low, volume.normalisation.high
    kwargs = _common(project, volume, "image", visible) | {
        "name": volume.name,
        "contrast_limits": (low, high if high > low else low + 1.0),
        "colormap": "gray",
    }
    return _levels(volume.path), kwargs, "image"


def prediction_layer(project: Project, volume: Volume, *, visible: bool = True) -> Layer:
    """The stored prediction, lazy: class indices, in the classes' names and colours."""
    kwargs = _common(project, volume, "prediction", visible) | {"name": f"{volume.name} prediction"}
    return (
        _levels(volume.path / "labels" / "prediction"),
        kwargs | class_look(project.classes, offset=0),
        "labels",
    )


def annotation_layer(project: Project, volume: Volume, *, visible: bool = True) -> Layer:
    """The annotation in memory, ready to be painted on; an empty one, sparse, if the volume has none."""
    coverage = volume.coverage or "sparse"
    revision = volume.revision
    if volume.has_annotation:
        data = volume.read_annotation()
    else:
        data = np.zeros(volume.grid.shape, project.classes.index_dtype)
    kwargs = _common(project, volume, "annotation", visible, coverage=coverage, revision=revision)
    look = class_look(project.classes, offset=1, show_background=coverage == "sparse")
    return data, kwargs | {"name": f"{volume.name} annotation"} | look, "labels"


def _common(project: Project, volume: Volume, content: str, visible: bool, **facts: Any) -> dict[str, Any]:
    source = volume.source.model_dump(mode="json")
    mine = tag(
        content, project=str(project.path.resolve()), volume=volume.name, role=volume.role, source=source,
        **true_affine(volume.grid),
    )  # fmt: skip
    mine["crln"] |= facts
    return {"metadata": mine, "visible": visible, **upright_placement(volume.grid)}


def _levels(folder: Path) -> Any:
    """All levels of a multiscale as Dask arrays, finest first; a single array where there is one level."""
    import dask.array as da

    arrays = store.open_levels(folder)
    levels = [da.from_array(array, chunks=array.chunks, name=False) for array in arrays]
    return levels if len(levels) > 1 else levels[0]
