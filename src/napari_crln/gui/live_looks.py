"""How each live map looks in napari: the layer that is made for it, once, and what is set when it changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Points
from napari.utils.colormaps import Colormap, DirectLabelColormap
from numpy.typing import NDArray

from napari_crln.gui.live_maps import LiveMap, label_colours
from napari_crln.previews import AnchorRecord
from napari_crln.volume.labels import LabelClass

_UNCERTAIN = [[1.0, 0.75, 0.1, 0.0], [1.0, 0.75, 0.1, 0.25], [1.0, 0.95, 0.5, 0.95]]
_CLUES = (
    [[0.13, 0.40, 0.90, 0.9], [0.13, 0.40, 0.90, 0.35], [0, 0, 0, 0], [0.9, 0.2, 0.15, 0.35], [0.9, 0.2, 0.15, 0.9]],
    [0.0, 0.3, 0.502, 0.7, 1.0],
)  # fmt: skip
_GAINED_BACKGROUND = "#bbbbbb"
_OPACITY = {"labels": 0.55, "image": 0.6, "points": 0.9}


def labels_layer(spec: LiveMap, stored: NDArray[np.uint8], classes: tuple[LabelClass, ...]) -> Any:
    """A Labels layer of class indices, or of the classes that were given."""
    colours = label_colours(classes)
    names = [each.name for each in classes]
    if spec.key == "changed":  # k + 1: rectification gave class k
        given: dict[int | None, Any] = {each.index + 1: each.colour for each in classes if each.index}
        colours = {0: "transparent", None: "transparent", 1: _GAINED_BACKGROUND, **given}
        names = ["unchanged", *(f"now {name}" for name in names)]
    return Labels(
        stored, name=spec.layer_name, colormap=DirectLabelColormap(color_dict=colours),
        opacity=_OPACITY["labels"], features={"index": list(range(len(names))), "class": names},
    )  # fmt: skip


def image_layer(spec: LiveMap, stored: NDArray[np.uint8]) -> Any:
    """An Image layer of 8-bit values; limits are given, as napari would look for them at great cost."""
    colormap: Any = spec.colormap
    if spec.key == "clues":
        colormap = Colormap(_CLUES[0], controls=_CLUES[1], name="crln clues")
    elif spec.key == "uncertainty":
        colormap = Colormap(_UNCERTAIN, name="crln uncertainty")
    return Image(
        stored, name=spec.layer_name, colormap=colormap, contrast_limits=(0, 255),
        opacity=_OPACITY["image"], blending="translucent",
    )  # fmt: skip


def points_layer(spec: LiveMap, anchors: AnchorRecord, classes: tuple[LabelClass, ...]) -> Any:
    """A Points layer of anchors, in the colours of their classes."""
    layer = Points(
        ndim=3, name=spec.layer_name, size=1.5, symbol="disc", border_width=0.2, border_color="black",
        opacity=_OPACITY["points"], out_of_slice_display=False,
    )  # fmt: skip
    set_points(layer, anchors, classes)
    return layer


def set_points(layer: Any, anchors: AnchorRecord | None, classes: Iterable[LabelClass]) -> None:
    """Other anchors in the same layer; none of them selected."""
    points = () if anchors is None else anchors.points
    by_index = {each.index: each for each in classes}
    own = [by_index.get(point[0]) for point in points]
    layer.data = np.array([point[1:] for point in points], np.float64).reshape(-1, 3)
    layer.selected_data = set()
    layer.features = {"class": ["?" if each is None else each.name for each in own]}
    if own:
        layer.face_color = ["white" if each is None or not each.index else each.colour for each in own]
