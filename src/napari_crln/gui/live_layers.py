"""The live layers in the viewer: made once, then updated in place as uint8.

Layers are known by identity, not by name, so that renaming one changes nothing. One that the user deletes stays deleted
(`removed` is told), one that the user paints on is let alone from then on (`edited` is told) and, when it is
unticked, left to the user. Making a layer never changes what is selected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from napari.layers import Image, Labels
from napari.utils.colormaps import Colormap, DirectLabelColormap

from napari_crln.gui.layer_data import placement
from napari_crln.gui.live_maps import BY_KEY, LiveMap, label_colours
from napari_crln.gui.preview_feed import Frame, MapPicture
from napari_crln.gui.tags import tag
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import LabelClass

_UNCERTAIN = [[1.0, 0.75, 0.1, 0.0], [1.0, 0.75, 0.1, 0.25], [1.0, 0.95, 0.5, 0.95]]
_CLUES = (
    [[0.13, 0.40, 0.90, 0.9], [0.13, 0.40, 0.90, 0.35], [0, 0, 0, 0], [0.9, 0.2, 0.15, 0.35], [0.9, 0.2, 0.15, 0.9]],
    [0.0, 0.3, 0.502, 0.7, 1.0],
)  # fmt: skip
_GAINED_BACKGROUND = "#bbbbbb"
_OPACITY = {"labels": 0.55, "image": 0.6}


class LiveLayers:
    """One layer a live map, at most.

    Parameters
    ----------
    viewer : napari's
    removed : told the key of a map whose layer the user deleted
    edited : told the key of a map whose layer the user painted on
    shown_again : told when the user unhides a layer
    """

    def __init__(
        self,
        viewer: Any,
        removed: Callable[[str], None],
        edited: Callable[[str], None],
        shown_again: Callable[[], None],
    ) -> None:
        self._viewer = viewer
        self._removed, self._edited, self._shown_again = removed, edited, shown_again
        self._layers: dict[str, Any] = {}
        self._touched: set[str] = set()
        self._removing = False
        viewer.layers.events.removed.connect(self._on_removed)

    @property
    def hidden(self) -> frozenset[str]:
        """Maps whose layer is there, but hidden by the user."""
        return frozenset(key for key, layer in self._layers.items() if not layer.visible)

    def layer(self, key: str) -> Any:
        """The layer of a map; None if there is none."""
        return self._layers.get(key)

    def show(self, frame: Frame, grid: Grid, classes: Iterable[LabelClass], ticked: frozenset[str]) -> None:
        """Draw the maps of a frame that are ticked and that nobody painted on."""
        for key, picture in frame.maps.items():
            if key in ticked and key not in self._touched:
                self._show(BY_KEY[key], picture, frame, grid, tuple(classes))

    def keep_only(self, keys: frozenset[str]) -> None:
        """Take away the layers of other maps; one that was painted on stays, as the user's own."""
        for key in [key for key in self._layers if key not in keys]:
            self.drop(key)

    def drop(self, key: str) -> None:
        """Take a map's layer away, or if it was painted on let go of it."""
        layer = self._layers.pop(key)
        self._disconnect(layer)
        if key in self._touched:
            self._touched.discard(key)
            return
        if layer in self._viewer.layers:
            self._removing = True
            try:
                self._viewer.layers.remove(layer)
            finally:
                self._removing = False

    def close(self) -> None:
        """Let go of all layers; they stay as they are."""
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        for layer in self._layers.values():
            self._disconnect(layer)
        self._layers.clear()

    def _show(
        self, spec: LiveMap, picture: MapPicture, frame: Frame, grid: Grid, classes: tuple[LabelClass, ...]
    ) -> None:
        layer = self._layers.get(spec.key)
        if layer is None:
            layer = self._add(spec, picture, grid, classes)
        elif layer.data.shape == picture.stored.shape:
            layer.data = picture.stored
        else:  # another volume: napari takes a new shape, and then a new place
            layer.data = picture.stored
            self._place(layer, grid)
        facts = {"generation": frame.generation, "step": frame.step, "volume": frame.volume, "map": spec.key}
        scale, offset = picture.quantisation.scale, picture.quantisation.offset
        layer.metadata.update(tag("preview", scale=scale, offset=offset, **facts))

    def _place(self, layer: Any, grid: Grid) -> None:
        for name, value in placement(grid).items():
            setattr(layer, name, value)

    def _add(self, spec: LiveMap, picture: MapPicture, grid: Grid, classes: tuple[LabelClass, ...]) -> Any:
        make = _labels if spec.kind == "labels" else _image
        layer = make(spec, picture, classes)
        self._place(layer, grid)
        with self._same_selection():
            self._viewer.add_layer(layer)
        self._layers[spec.key] = layer
        layer.events.visible.connect(self._on_visible)
        if isinstance(layer, Labels):
            layer.events.paint.connect(partial(self._on_paint, spec.key))
        return layer

    @contextmanager
    def _same_selection(self) -> Iterator[None]:
        layers = self._viewer.layers
        selected, active = {_own(layer) for layer in layers.selection}, _own(layers.selection.active)
        yield
        if selected:
            layers.selection = selected
            layers.selection.active = active

    def _disconnect(self, layer: Any) -> None:
        layer.events.visible.disconnect(self._on_visible)

    def _on_visible(self, _event: Any = None) -> None:
        self._shown_again()

    def _on_paint(self, key: str, event: Any) -> None:
        if self._layers.get(key) is event.source and key not in self._touched:
            self._touched.add(key)
            self._edited(key)

    def _on_removed(self, event: Any) -> None:
        key = next((key for key, layer in self._layers.items() if layer is event.value), None)
        if key is not None and not self._removing:
            del self._layers[key]
            self._touched.discard(key)
            self._removed(key)


def _own(layer: Any) -> Any:
    """A layer itself: napari hands plugins proxies, and a selection of proxies is not shown."""
    return getattr(layer, "__wrapped__", layer)


def _labels(spec: LiveMap, picture: MapPicture, classes: tuple[LabelClass, ...]) -> Any:
    colours = label_colours(classes)
    names = [each.name for each in classes]
    if spec.key == "changed":  # k + 1: rectification gave class k
        given: dict[int | None, Any] = {each.index + 1: each.colour for each in classes if each.index}
        colours = {0: "transparent", None: "transparent", 1: _GAINED_BACKGROUND, **given}
        names = ["unchanged", *(f"now {name}" for name in names)]
    return Labels(
        picture.stored, name=spec.layer_name, colormap=DirectLabelColormap(color_dict=colours),
        opacity=_OPACITY["labels"], features={"index": list(range(len(names))), "class": names},
    )  # fmt: skip


def _image(spec: LiveMap, picture: MapPicture, _classes: tuple[LabelClass, ...]) -> Any:
    colormap: Any = spec.colormap
    if spec.key == "clues":
        colormap = Colormap(_CLUES[0], controls=_CLUES[1], name="crln clues")
    elif spec.key == "uncertainty":
        colormap = Colormap(_UNCERTAIN, name="crln uncertainty")
    return Image(
        picture.stored, name=spec.layer_name, colormap=colormap, contrast_limits=(0, 255),
        opacity=_OPACITY["image"], blending="translucent",
    )  # fmt: skip
