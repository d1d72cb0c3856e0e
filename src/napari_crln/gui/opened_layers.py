"""Layers that napari's *File › Open* made of a project or a run: the panel opens it, and its own layers take their place.

Nothing saves what is painted on them, so that an annotation that was painted on becomes the panel's. Images are taken away; other
labels are hidden, since somebody may have painted on them. Qt-free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image

from napari_crln.gui.project_files import VolumeData
from napari_crln.gui.tags import tag_of
from napari_crln.gui.viewer_layers import own, remove
from napari_crln.types import AnnotationDHW

#: As napari names us in the source of a layer that our reader made. A copy of a layer has no such source.
_PLUGIN = "napari-crln"


class OpenedLayers:
    """The reader's layers in a viewer.

    Parameters
    ----------
    viewer : napari's
    opened : told the folder of the project, or of the run, that a layer is of
    """

    def __init__(self, viewer: Any, opened: Callable[[Path], None]) -> None:
        self._viewer, self._opened = viewer, opened
        viewer.layers.events.inserted.connect(self._on_inserted)

    def look(self) -> None:
        """Tell of what is open already, of the newest first."""
        for _, about in reversed(list(self._made_by_reader())):
            return self._opened(_folder(about))
        return None

    def give_way(self, project: Path, data: VolumeData) -> AnnotationDHW | None:
        """Take away, or hide, the layers of a volume that the panel is about to show.

        Returns
        -------
        The annotation, (D, H, W), that was painted on since it was opened; None if there is none. One that is older than what
        is stored, or has become another shape, stays as the user's own layer.
        """
        painted, gone = None, []
        for layer, about in list(self._made_by_reader()):
            if about.get("volume") != data.name or about["project"] != str(project.resolve()):
                continue
            if about["content"] != "annotation":
                layer.visible = False
                gone += [layer] if isinstance(layer, Image) else []
            elif data.stored is not None and _is_of(layer, about, data):
                painted = painted if np.array_equal(layer.data, data.stored) else layer.data
                gone.append(layer)
        remove(self._viewer, gone)
        return painted

    def close(self) -> None:
        """Hear no more of new layers."""
        self._viewer.layers.events.inserted.disconnect(self._on_inserted)

    def _made_by_reader(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        for layer in self._viewer.layers:
            about = tag_of(layer.metadata)
            if layer.source.reader_plugin == _PLUGIN and "project" in about:
                yield own(layer), about

    def _on_inserted(self, event: Any) -> None:
        about = tag_of(event.value.metadata)
        if event.value.source.reader_plugin == _PLUGIN and "project" in about:
            self._opened(_folder(about))


def _folder(about: dict[str, Any]) -> Path:
    return Path(about.get("run", about["project"]))


def _is_of(layer: Any, about: dict[str, Any], data: VolumeData) -> bool:
    """Whether a layer is the annotation that is stored, or was until somebody painted on it."""
    assert data.stored is not None
    same = layer.data.shape == data.stored.shape and layer.data.dtype == data.stored.dtype
    return bool(same and about.get("revision") == data.revision)
