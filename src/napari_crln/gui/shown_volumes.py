"""The project's volumes in the viewer: image, labels and stored prediction of the one that is shown.

Another volume hides the layers of the one before, so that what a user did to them is kept, as long as the images of the
volumes that were shown last fit into `MOST_BYTES`; layers of others are taken away, unless they were renamed or moved. Labels (of
validation and test volumes) and prediction are not editable: nothing here would save what is painted. The
annotation of volumes that may be trained on has a layer of its own (`annotation_layer.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_crln.gui.layer_data import true_affine, upright_placement
from napari_crln.gui.leftovers import leave
from napari_crln.gui.live_maps import label_colours
from napari_crln.gui.project_files import VolumeData
from napari_crln.gui.slice_visit import bring_into_sight
from napari_crln.gui.tags import tag
from napari_crln.gui.viewer_layers import add_beneath, remove, same_selection, together
from napari_crln.gui.viewer_layers import own as unwrapped
from napari_crln.gui.viewer_space import slice_index, sliced_axis
from napari_crln.types import LabelDHW
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import LabelClass

#: What lies over the volumes.
_ABOVE = frozenset({"preview", "annotation"})
#: Bytes of images and labels, and number of volumes, that stay in the viewer; the shown volume and the one before it do in any case.
MOST_BYTES, MOST = 1 << 30, 12


class ShownVolumes:
    """Layers of the volumes that were shown, by name of the volume; the one that was shown last comes last.

    Parameters
    ----------
    viewer : napari's
    forgotten : told the name of a volume whose layers were taken away, to make room
    """

    def __init__(self, viewer: Any, forgotten: Callable[[str], None] = lambda _: None) -> None:
        self._viewer, self._forgotten = viewer, forgotten
        self._layers: dict[str, dict[str, Any]] = {}
        self._made: dict[Any, tuple[Any, ...]] = {}
        self.grids: dict[str, Grid] = {}
        self.shown = ""

    def clear(self) -> None:
        """Take all away: another project was opened."""
        self._remove(*tuple(self._layers))
        self.grids.clear()
        self.shown = ""

    def close(self) -> None:
        """Let go of all layers; they stay."""
        for layers in self._layers.values():
            for layer in layers.values():
                leave(layer)

    def show(self, data: VolumeData, classes: tuple[LabelClass, ...]) -> None:
        """Make a volume the visible one; what was deleted of it comes back, what is hidden of the shown one stays so."""
        for name in list(self._layers):
            if name != data.name:
                self._set_visible(name, False)
        self.grids[data.name] = data.grid
        own = self._layers[data.name] = self._layers.pop(data.name, {})
        self._ensure(data.name, own, "image", lambda: _image(data))
        for kind, values in (("labels", data.labels), ("prediction", data.prediction)):
            if values is not None:
                self._ensure_labels(own, kind, values, data, classes)
            elif kind in own:  # of a role, or a prediction, that it has no more
                self._made.pop(own[kind], None)
                remove(self._viewer, [own.pop(kind)])
        other = data.name != self.shown
        if other:
            self._set_visible(data.name, True)
            self._select_instead(own["image"])
        self.shown = data.name
        self._make_room()
        image = self.layer("image")
        if other and image is not None:
            bring_into_sight(self._viewer, image, data.grid.shape)

    def _select_instead(self, image: Any) -> None:
        """Select the image where a layer of the volume before was selected, which is hidden now."""
        active = unwrapped(self._viewer.layers.selection.active)
        before = self._layers.get(self.shown, {}).values()
        if any(layer is active for layer in before) and image in self._viewer.layers:
            self._viewer.layers.selection = {image}
            self._viewer.layers.selection.active = image

    def _make_room(self) -> None:
        for name in self._too_many():
            if all(self._as_made(layer) for layer in self._layers[name].values()):
                with together(self._viewer):
                    self._forgotten(name)
                    self._remove(name)

    def _too_many(self) -> list[str]:
        """Volumes that were not shown for long, beyond what may stay."""
        sizes = {  # an annotation is there twice
            name: sum(_in_memory(layer.data) for layer in own.values())
            + 2 * math.prod(self.grids[name].shape)
            for name, own in self._layers.items()
        }
        newest = list(reversed(sizes))
        kept = list(accumulate(sizes[name] for name in newest))
        return [name for i, name in enumerate(newest) if i > 1 and (i >= MOST or kept[i] > MOST_BYTES)]

    def _as_made(self, layer: Any) -> bool:
        return layer not in self._viewer.layers or self._made.get(layer) == _place(layer)

    def _remove(self, *names: str) -> None:
        layers = [layer for name in names for layer in self._layers.pop(name).values()]
        for layer in layers:
            self._made.pop(layer, None)
        remove(self._viewer, layers)

    def layer(self, kind: str) -> Any:
        """A layer of the shown volume by kind: image, labels, prediction; None if it has none in the viewer."""
        found = self._layers.get(self.shown, {}).get(kind)
        return found if found is not None and found in self._viewer.layers else None

    def position(self) -> tuple[int, int] | None:
        """Axis (0, 1, 2) and index of the slice that the viewer shows of the volume; None in 3D or without one."""
        image = self._layers.get(self.shown, {}).get("image")
        axis = sliced_axis(self._viewer)
        if image is None or image not in self._viewer.layers or axis is None:
            return None
        return axis, slice_index(self._viewer, image, self.grids[self.shown].shape, axis)

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
        own[kind].metadata.update(tag(kind, volume=name, **true_affine(self.grids[name])))
        with same_selection(self._viewer):
            add_beneath(self._viewer, own[kind], _ABOVE)
        self._made[own[kind]] = _place(own[kind])
        if kind != "image":
            own[kind].editable = False
        return True

    def _set_visible(self, name: str, visible: bool) -> None:
        for layer in self._layers.get(name, {}).values():
            if layer.visible != visible:  # napari draws the whole scene anew, changed or not
                layer.visible = visible


def _place(layer: Any) -> tuple[Any, ...]:
    return layer.name, *np.asarray(layer.affine.affine_matrix).flat, *layer.translate, *layer.scale


def _in_memory(data: Any) -> int:
    return data.nbytes if isinstance(data, np.ndarray) else 0


def _image(data: VolumeData) -> Any:
    return Image(
        data.image, name=data.name, multiscale=isinstance(data.image, list), contrast_limits=data.limits,
        colormap="gray", **upright_placement(data.grid),
    )  # fmt: skip


def _labels(kind: str, values: LabelDHW, data: VolumeData, classes: tuple[LabelClass, ...]) -> Any:
    layer = Labels(
        values, name=f"{data.name} {kind}", colormap=DirectLabelColormap(color_dict=label_colours(classes)),
        opacity=0.5, features={"index": list(range(len(classes))), "class": [c.name for c in classes]},
        **upright_placement(data.grid),
    )  # fmt: skip
    if kind == "labels":
        layer.contour = 1
    return layer
