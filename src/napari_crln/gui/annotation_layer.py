"""The layer that a volume is annotated on: `<volume> annotation`, in memory, single-scale, with the stored values.

0 is not annotated, 1 background, k + 1 class k; so the eraser takes annotation away. The array is never swapped, nor
written to but as the user's own edits are, which can be undone. Where the stored annotation was changed by somebody
else, the layer makes room for a new one. What is painted is handed to the annotator as "touched" and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_crln.gui.annotator import Annotator
from napari_crln.gui.corrections import Filling, as_background, from_labels
from napari_crln.gui.label_look import class_look
from napari_crln.gui.layer_data import true_affine, upright_placement
from napari_crln.gui.leftovers import leave
from napari_crln.gui.project_files import VolumeData
from napari_crln.gui.tags import tag
from napari_crln.gui.viewer_layers import own, same_selection
from napari_crln.volume.annotate import Plane
from napari_crln.volume.labels import ClassTable, LabelClass

#: Modes in which a mouse press changes voxels.
_PAINTING = frozenset({"paint", "fill", "erase", "polygon"})


class AnnotationLayers:
    """One layer for each volume that was shown and may be trained on.

    Parameters
    ----------
    viewer : napari's
    annotator : saves what is painted
    plane : the slice that the viewer shows of the shown volume; None in 3D
    belief : class indices (D, H, W) that a slice may begin with when it is corrected, and what they are; None: there are none
    """

    def __init__(
        self,
        viewer: Any,
        annotator: Annotator,
        plane: Callable[[], Plane | None],
        belief: Callable[[Plane], tuple[Any, str] | None],
    ) -> None:
        self._viewer, self._annotator = viewer, annotator
        self._plane, self._belief = plane, belief
        self._layers: dict[str, Any] = {}
        self._deafen: dict[str, list[Callable[[], None]]] = {}
        self._shown = ""
        self.correcting = False
        #: Told why a slice that is to be corrected begins empty.
        self.remark: Callable[[str], None] = lambda _: None
        viewer.layers.events.removed.connect(self._on_removed)

    def layer(self, volume: str) -> Any:
        """The layer that a volume is annotated on; None if there is none."""
        return self._layers.get(volume)

    def show(self, project: Path, data: VolumeData, classes: tuple[LabelClass, ...], on: bool) -> None:
        """Show a volume's layer, those of others hidden; it is made if need be, and replaced if it is outdated."""
        brush = self._brush(data.name)
        if data.name != self._shown:  # read anew, it stays hidden if the user has hidden it
            self._shown = data.name
            self.set_shown(on)
        if not data.paintable:
            self._drop(data.name)
            return
        state = self._annotator.state(data.name)
        if state is not None and (state.outdated or data.revision > state.revision) and not state.pending:
            self._drop(data.name)
        if data.name not in self._layers and on:
            self._add(project, data, classes)
        if brush and on and self.ready(data.name):  # who paints goes on painting
            layer = self._layers[data.name]
            layer.mode, layer.selected_label, layer.brush_size = brush

    def _brush(self, volume: str) -> tuple[str, int, float] | None:
        """Mode, label and size of the brush that another volume is being painted with; None if none is."""
        layer = self._layers.get(self._shown)
        active = own(self._viewer.layers.selection.active)
        if volume == self._shown or layer is None or layer is not active or layer.mode not in _PAINTING:
            return None
        return str(layer.mode), layer.selected_label, layer.brush_size

    def set_shown(self, on: bool) -> None:
        """Show or hide the layer of the shown volume; those of others are hidden."""
        for name, layer in self._layers.items():
            visible = on and name == self._shown
            if layer.visible != visible:
                layer.visible = visible

    def clear(self) -> None:
        """Take all away, saved: another project is opened. One that could not be saved becomes the user's own."""
        for name in tuple(self._layers):
            self._drop(name)

    def forget(self, volume: str) -> None:
        """Take the layer of a volume away that is not shown; not while it has what could not be saved."""
        state = self._annotator.state(volume)
        if volume != self._shown and (state is None or not (state.pending or state.error)):
            self._drop(volume)

    def close(self) -> None:
        """Let go of the layers, saved; they stay, but not to be painted on, as nothing would save it any more.

        One that could not be saved becomes the user's own.
        """
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        saved = [layer for name, layer in self._layers.items() if self._let_go(name, layer)]
        for layer in saved:
            with suppress(RuntimeError):  # its window is gone
                layer.editable = False
            leave(layer)
        self._layers.clear()

    def ready(self, volume: str) -> bool:
        """Select a volume's layer with the brush ready, in a class; False if there is no layer."""
        layer = self._layers.get(volume)
        if layer is None:
            return False
        layer.visible = True
        self._viewer.layers.selection = {layer}
        self._viewer.layers.selection.active = layer
        if layer.mode not in _PAINTING:
            layer.mode = "paint"
        layer.selected_label = max(layer.selected_label, 2)
        return True

    def complete_slice(self) -> bool:
        """Make background of what is not annotated in the shown slice, as one edit; False if there is none."""
        layer, plane = self._layers.get(self._shown), self._plane()
        if layer is None or plane is None:
            return False
        self._fill(layer, as_background(layer.data, plane))
        return True

    def begin_correction(self) -> None:
        """Fill the shown slice from the pseudo-label, where it is not annotated."""
        layer, plane = self._layers.get(self._shown), self._plane()
        if layer is None or plane is None:
            return
        belief = self._belief(plane)
        if belief is None:
            self.remark("There is no pseudo-label or prediction of this slice yet: it begins empty.")
            return
        labels, source = belief
        filling = from_labels(layer.data, labels, plane)
        if filling.indices[0].size:
            self._annotator.say_begun(f"What was empty of slice {plane.index} began as {source}.")
        self._fill(layer, filling)

    def _fill(self, layer: Any, filling: Filling) -> None:
        if filling.indices[0].size:
            layer.data_setitem(filling.indices, filling.values)

    def _add(self, project: Path, data: VolumeData, classes: tuple[LabelClass, ...]) -> None:
        table = ClassTable(classes)
        array, stored = data.annotation, data.stored
        if array is None or stored is None:
            array, stored = (np.zeros(data.grid.shape, table.index_dtype) for _ in range(2))
        layer = _made(array, data, table)
        layer.metadata.update(
            tag(
                "annotation",
                project=str(project),
                volume=data.name,
                revision=data.revision,
                **true_affine(data.grid),
            )
        )
        with same_selection(self._viewer):
            self._viewer.add_layer(layer)
        self._layers[data.name] = layer
        self._annotator.begin(project, data.name, lambda: layer.data, data.revision, stored)
        layer.mouse_drag_callbacks.insert(0, self._on_press)
        self._deafen[data.name] = []
        for event, callback in (
            (layer.events.mode, partial(self._on_mode, data.name)),
            (layer.events.paint, partial(self._touched, data.name, True)),
            (layer.events.labels_update, partial(self._touched, data.name, False)),
            (layer.events.set_data, partial(self._touched, data.name, False)),
        ):
            event.connect(callback)
            self._deafen[data.name].append(partial(event.disconnect, callback))

    def _touched(self, volume: str, painted: bool, _event: Any = None) -> None:
        self._annotator.touch(volume, painted=painted)

    def _on_mode(self, volume: str, event: Any) -> None:
        if str(event.source.mode) in _PAINTING:
            self._annotator.prepare(volume)

    def _on_press(self, layer: Any, _event: Any) -> None:
        """Before napari's own brush: it is the first of the callbacks."""
        if self.correcting and layer.mode in _PAINTING and layer is self._layers.get(self._shown):
            self.begin_correction()

    def _drop(self, name: str) -> None:
        layer = self._layers.pop(name, None)
        if layer is None:
            return
        if not self._let_go(name, layer):  # nowhere else is what was painted
            self._viewer.add_layer(_unsaved(layer))
        if layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def _let_go(self, name: str, layer: Any) -> bool:
        """Save, and hear no more of a layer; whether all of it is saved."""
        saved = self._annotator.end(name)
        for disconnect in self._deafen.pop(name, []):
            disconnect()
        if self._on_press in layer.mouse_drag_callbacks:
            layer.mouse_drag_callbacks.remove(self._on_press)
        return saved

    def _on_removed(self, event: Any) -> None:
        name = next((name for name, layer in self._layers.items() if layer is event.value), None)
        if name is not None:  # by the user: what was painted is saved
            self._let_go(name, self._layers.pop(name))


def _unsaved(layer: Any) -> Any:
    """What could not be saved, as a layer of the user's own: hidden, since its project or its state is no longer shown.

    It is another layer, as Mesa crashed when one that had been drawn was drawn again after those below it had been removed.
    """
    placed = {
        name: getattr(layer, name) for name in ("scale", "translate", "rotate", "shear", "affine", "units")
    }
    return Labels(
        layer.data, name=f"{layer.name}, not saved", colormap=layer.colormap, features=layer.features,
        metadata=dict(layer.metadata), visible=False, **placed,
    )  # fmt: skip


def _made(array: Any, data: VolumeData, table: ClassTable) -> Any:
    look = class_look(table, offset=1, show_background=data.coverage != "dense")
    layer = Labels(
        array, name=f"{data.name} annotation", opacity=0.6, features=look["features"],
        colormap=DirectLabelColormap(color_dict=look["colormap"]), **upright_placement(data.grid),
    )  # fmt: skip
    layer.selected_label = 2
    layer.brush_size = max(3, min(array.shape) // 20)
    return layer
