"""The project's volumes in the viewer: image, labels and stored prediction of the one that is shown.

Each volume's layers are made once; another volume hides them, so that nothing a user did to them is lost. Labels (of
validation and test volumes) and prediction are not editable: nothing here would save what is painted. The
annotation of volumes that may be trained on has a layer of its own (`annotation_layer.py`).
"""

from __future__ import annotations

from typing import Any

from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_crln.gui.layer_data import placement
from napari_crln.gui.leftovers import leave
from napari_crln.gui.live_maps import label_colours
from napari_crln.gui.project_files import VolumeData
from napari_crln.gui.tags import tag
from napari_crln.types import LabelDHW
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import LabelClass


class ShownVolumes:
    """Layers of the volumes that were shown, by name of the volume."""

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._layers: dict[str, dict[str, Any]] = {}
        self.grids: dict[str, Grid] = {}
        self.shown = ""

    def clear(self) -> None:
        """Take all away: another project was opened."""
        for layers in self._layers.values():
            for layer in layers.values():
                if layer in self._viewer.layers:
                    self._viewer.layers.remove(layer)
        self._layers.clear()
        self.grids.clear()
        self.shown = ""

    def close(self) -> None:
        """Let go of all layers; they stay."""
        for layers in self._layers.values():
            for layer in layers.values():
                leave(layer)

    def show(self, data: VolumeData, classes: tuple[LabelClass, ...]) -> None:
        """Make a volume the visible one; what was deleted of it comes back, what is hidden of the shown one stays so."""
        first = not self._layers
        for name in list(self._layers):
            if name != data.name:
                self._set_visible(name, False)
        self.grids[data.name] = data.grid
        own = self._layers.setdefault(data.name, {})
        self._ensure(data.name, own, "image", lambda: _image(data))
        if data.labels is not None:
            self._ensure_labels(own, "labels", data.labels, data, classes)
        if data.prediction is not None:
            self._ensure_labels(own, "prediction", data.prediction, data, classes)
        if data.name != self.shown:
            self._set_visible(data.name, True)
        self.shown = data.name
        if first:
            self._viewer.reset_view()
            self._viewer.dims.set_current_step(0, data.grid.shape[0] // 2)

    def layer(self, kind: str) -> Any:
        """A layer of the shown volume by kind: image, labels, prediction; None if it has none in the viewer."""
        found = self._layers.get(self.shown, {}).get(kind)
        return found if found is not None and found in self._viewer.layers else None

    def position(self) -> tuple[int, int] | None:
        """Axis (0, 1, 2) and index of the slice that the viewer shows of the volume; None in 3D or without one."""
        image = self._layers.get(self.shown, {}).get("image")
        if image is None or image not in self._viewer.layers or self._viewer.dims.ndisplay != 2:
            return None
        axis = self._viewer.dims.order[0] - (self._viewer.dims.ndim - 3)
        if axis not in (0, 1, 2):
            return None
        shape = self.grids[self.shown].shape
        point = image.world_to_data(self._viewer.dims.point[-3:])
        return axis, int(min(max(round(float(point[axis])), 0), shape[axis] - 1))

    def _ensure_labels(
        self,
        own: dict[str, Any],
        kind: str,
        values: LabelDHW,
        data: VolumeData,
        classes: tuple[LabelClass, ...],
    ) -> None:
        made = self._ensure(data.name, own, kind, lambda: _labels(kind, values, data, classes))
        if not made:
            own[kind].data = values

    def _ensure(self, name: str, own: dict[str, Any], kind: str, make: Any) -> bool:
        """Make a layer unless it is there; whether it was made."""
        if kind in own and own[kind] in self._viewer.layers:
            return False
        own[kind] = make()
        own[kind].metadata.update(tag(kind, volume=name))
        self._viewer.add_layer(own[kind])
        if kind != "image":
            own[kind].editable = False
        return True

    def _set_visible(self, name: str, visible: bool) -> None:
        for layer in self._layers.get(name, {}).values():
            if layer.visible != visible:  # napari draws the whole scene anew, changed or not
                layer.visible = visible


def _image(data: VolumeData) -> Any:
    return Image(
        data.image, name=data.name, multiscale=isinstance(data.image, list), contrast_limits=data.limits,
        colormap="gray", **placement(data.grid),
    )  # fmt: skip


def _labels(kind: str, values: LabelDHW, data: VolumeData, classes: tuple[LabelClass, ...]) -> Any:
    layer = Labels(
        values, name=f"{data.name} {kind}", colormap=DirectLabelColormap(color_dict=label_colours(classes)),
        opacity=0.5, features={"index": list(range(len(classes))), "class": [c.name for c in classes]},
        **placement(data.grid),
    )  # fmt: skip
    if kind == "labels":
        layer.contour = 1
    return layer
