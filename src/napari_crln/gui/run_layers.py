"""Layers of a run: the volume that its newest preview shows, and the preview's maps as the engine stored them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.errors import ProjectError
from napari_crln.gui.label_look import class_look
from napari_crln.gui.layer_data import Layer, true_affine, upright_placement
from napari_crln.gui.stored_layers import image_layer, volume_layers
from napari_crln.gui.tags import KEY, tag
from napari_crln.previews import PER_CLASS
from napari_crln.run.folder import RunFolder
from napari_crln.run.preview import Preview, PreviewGone, PreviewReader
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume

_LABELS = {"pseudo_label": 0, "rectified": 0, "prediction": 0, "changed": 1}  # value of class 0, background
_COLORMAPS = {"similarity": "magma", "clues": "PiYG", "uncertainty": "inferno"}
_SHOWN = ("prediction",)
_ATTEMPTS = 3


def run_layers(path: Path) -> list[Layer]:
    """Image and maps of the newest preview; without one, the first labelled volume as the project opens it.

    Raises
    ------
    RunError, ProjectError
        If the folder is no run, or is not in a project's `runs/`.
    """
    run = RunFolder.open(path)
    project = _project_of(run)
    layers = _preview_layers(project, PreviewReader(run.path)) or _project_layers(project)
    for _, kwargs, _ in layers:
        kwargs["metadata"][KEY]["run"] = str(run.path.resolve())
    return layers


def _project_of(run: RunFolder) -> Project:
    folder = run.path.resolve().parent.parent
    try:
        return Project.open(folder)
    except ProjectError as error:
        raise ProjectError(
            "a run outside its project",
            "a run lies in the folder runs of its project",
            "Open it there, or copy the project with it",
            run.path,
        ) from error


def _project_layers(project: Project) -> list[Layer]:
    volume = next(iter(project.with_role("labelled")), None) or next(iter(project.volumes.values()), None)
    if volume is None:
        raise ProjectError("no volume", "a run shows its project's volumes", "Import images", project.path)
    return volume_layers(project, volume)


def _preview_layers(project: Project, reader: PreviewReader) -> list[Layer]:
    """Layers of the newest preview that can be read whole: the engine may remove one while it is read."""
    for _ in range(_ATTEMPTS):
        preview = reader.newest()
        if preview is None:
            return []
        volume = project.volume(preview.record.volume)
        try:
            maps = [_map_layer(project, volume, preview, name) for name in preview.maps]
        except PreviewGone:
            continue
        return [image_layer(project, volume), *maps]
    return []


def _map_layer(project: Project, volume: Volume, preview: Preview, name: str) -> Layer:
    record, quantisation = preview.record, preview.record.maps[name]
    facts = {
        "generation": preview.generation,
        "step": record.step,
        "map": name,
        "meaning": quantisation.meaning,
    }
    facts |= {"scale": quantisation.scale, "offset": quantisation.offset}
    facts |= true_affine(volume.grid)
    where = tag("preview", project=str(project.path.resolve()), volume=volume.name, **facts)
    common = {"name": f"{volume.name} {name.replace('_', '-')}", "metadata": where, "visible": name in _SHOWN}
    common |= upright_placement(volume.grid)
    data = _whole(preview, name)
    if name in _LABELS:
        look = class_look(project.classes, offset=_LABELS[name], show_background=True, zero="as it was")
        return data, common | look, "labels"
    limits = {"contrast_limits": (0, 255), "colormap": _COLORMAPS.get(name, "gray"), "blending": "additive"}
    return data, common | limits, "image"


def _whole(preview: Preview, name: str) -> NDArray[Any]:
    """A map in the volume's shape, a stored 0.0 outside its region; of maps a class, the first foreground class's."""
    nothing = preview.record.maps[name].quantise(np.zeros(()))
    whole = np.full(preview.record.shape, nothing, np.uint8)
    preview.paste(name, whole, 1 if name in PER_CLASS else None)
    return whole
