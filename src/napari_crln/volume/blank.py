"""An empty annotation laid ready beside a volume before its first stroke: to make one takes most of a second on large volumes.

It waits as `volumes/.<name>.zarr.blank`, whole or not at all, until the first stroke moves it into place, or until whoever
had it made takes it away. A volume that got an annotation otherwise, or other classes, leaves it unused.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from napari_crln.durable import aside, creating_folder, sync
from napari_crln.errors import ProjectError
from napari_crln.volume import annotation, ome, pyramid, store
from napari_crln.volume.editing import writing
from napari_crln.volume.stored import Volume


def prepare(volume: Volume) -> None:
    """Lay an empty annotation ready; nothing where there is an annotation, or one that lies ready.

    Raises
    ------
    ProjectError
        If another process writes the annotation, or the disk is full.
    """
    with writing(volume.path):
        blank = _place(volume.path)
        if annotation.folder_of(volume.path).exists() or blank.exists():
            return
        empty = np.zeros(volume.grid.shape, volume.classes.index_dtype)
        with creating_folder(blank) as folder:
            annotation.fill_annotation(folder, empty, volume.grid, volume.classes, "sparse", revision=0)


def adopt(volume: Volume) -> None:
    """Make what lies ready the volume's annotation, if it has none; called by whoever writes it."""
    blank, folder = _place(volume.path), annotation.folder_of(volume.path)
    if not blank.exists():
        return
    if folder.exists() or store.read_attributes(blank).get("ome") != _described(volume):
        _remove(blank)
        return
    folder.parent.mkdir(exist_ok=True)
    blank.rename(folder)
    sync(folder.parent)
    annotation.list_labels(volume.path)


def discard(volume: Path) -> None:
    """Take away what lies ready, as nothing was painted; unless another process is about to use it."""
    if _place(volume).exists():
        with suppress(ProjectError), writing(volume, patience=0.0):
            _remove(_place(volume))


def _remove(blank: Path) -> None:
    """Whole or not at all: half of one would look like one."""
    with suppress(FileNotFoundError), aside(blank) as gone:
        blank.rename(gone)


def _place(volume: Path) -> Path:
    return volume.with_name(f".{volume.name}.blank")


def _described(volume: Volume) -> Any:
    """The OME description that a new annotation would have, as JSON gives it back."""
    levels = pyramid.plan(volume.grid.shape, volume.grid.spacing)
    return json.loads(json.dumps(ome.label("annotation", levels, volume.classes, offset=1)))
