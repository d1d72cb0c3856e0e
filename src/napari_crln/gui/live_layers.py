"""The live layers in the viewer: made once, then updated in place as uint8.

Layers are known by identity, not by name, so that renaming one changes nothing. One that the user deletes stays deleted
(`removed` is told), one that the user edits is let alone from then on (`edited` is told) and, when it is
unticked, left to the user. Making a layer never changes what is selected. In 3D napari uploads and marches through
whole volumes: there a layer has at most `MOST_IN_3D` voxels an axis, and the whole map again in 2D.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Labels, Points
from numpy.typing import NDArray

from napari_crln.gui.layer_data import true_affine, upright_placement
from napari_crln.gui.leftovers import leave
from napari_crln.gui.live_looks import image_layer, labels_layer, points_layer, set_points
from napari_crln.gui.live_maps import BY_KEY, LiveMap
from napari_crln.gui.preview_feed import Frame, blank
from napari_crln.gui.tags import tag
from napari_crln.gui.viewer_layers import add_beneath, own, same_selection
from napari_crln.previews import PER_CLASS, Quantisation
from napari_crln.types import ShapeDHW
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import LabelClass

#: What lies over the live layers: what one paints has to be seen.
_ABOVE = frozenset({"annotation"})
#: Voxels along an axis, in 3D.
MOST_IN_3D = 128


@dataclass(frozen=True)
class _Scene:
    """What is drawn, and where; kept to be drawn again when the viewer turns to 3D or back."""

    frame: Frame
    grid: Grid
    classes: tuple[LabelClass, ...]
    ticked: frozenset[str]


@dataclass
class _Live:
    """One live layer, where it was placed, in what scale its values are, and whether the user has edited it."""

    layer: Any
    place: tuple[Grid, ShapeDHW] | None = None
    scale: Quantisation | None = None
    touched: bool = False
    disconnect: list[Callable[[], None]] = field(default_factory=list)


class LiveLayers:
    """One layer a live map, at most.

    Parameters
    ----------
    viewer : napari's
    removed : told the key of a map whose layer the user deleted
    edited : told the key of a map whose layer the user edited
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
        self._live: dict[str, _Live] = {}
        self._scene: _Scene | None = None
        self._ours = False  # whether a change of a layer is of our making
        self._contour = 0
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.dims.events.ndisplay.connect(self._before_3d, position="first")
        viewer.dims.events.ndisplay.connect(self._on_ndisplay, position="last")

    @property
    def hidden(self) -> frozenset[str]:
        """Maps whose layer is there, but hidden by the user."""
        return frozenset(key for key, live in self._live.items() if not live.layer.visible)

    def layer(self, key: str) -> Any:
        """The layer of a map; None if there is none."""
        return self._live[key].layer if key in self._live else None

    def show(self, frame: Frame, grid: Grid, classes: Iterable[LabelClass], ticked: frozenset[str]) -> None:
        """Draw the maps of a frame that are ticked and that nobody edited, all at once."""
        for _ in self.showing(frame, grid, classes, ticked):
            pass

    def showing(
        self, frame: Frame, grid: Grid, classes: Iterable[LabelClass], ticked: frozenset[str]
    ) -> Iterator[None]:
        """The same a layer at a time, so that the event loop can run between two: each takes napari 10 ms and more."""
        scene = self._scene = _Scene(frame, grid, tuple(classes), ticked)
        for key in (*frame.maps, "anchors"):
            live = self._live.get(key)
            if key in ticked and not (live.touched if live is not None else frame.generation == 0):
                with self._our_doing():
                    self._show(BY_KEY[key], scene)
                yield

    def on_volume(self, volume: str, grid: Grid) -> None:
        """Another volume is seen: maps of the one before must not lie over it until its own come."""
        scene = self._scene
        if scene is not None and scene.frame.volume != volume:
            self._blank(scene, volume, grid)

    def on_run(self) -> None:
        """Another run is watched: maps of the one before must not be taken for its own."""
        scene = self._scene
        if scene is not None:
            self._blank(scene, scene.frame.volume, scene.grid)

    def _blank(self, scene: _Scene, volume: str, grid: Grid) -> None:
        """Show nothing on all layers, also on hidden ones, which the last frame had no map for."""
        scales = {key: live.scale for key, live in self._live.items() if live.scale is not None}
        frame = blank(scene.frame, volume, grid.shape, scales)
        self.show(frame, grid, scene.classes, frozenset(self._live))

    def outline(self, width: int) -> None:
        """Show `rectified` as outlines so many voxels wide, in 2D; 0: filled."""
        self._contour = width
        if "rectified" in self._live:
            self._live["rectified"].layer.contour = self._outline

    @property
    def _outline(self) -> int:
        """napari draws no outlines in 3D, and would warn of it at each update."""
        return self._contour if self._viewer.dims.ndisplay == 2 else 0

    def keep_only(self, keys: frozenset[str]) -> None:
        """Take away the layers of other maps; one that was edited stays, as the user's own."""
        for key in [key for key in self._live if key not in keys]:
            self.drop(key)

    def drop(self, key: str) -> None:
        """Take a map's layer away, or if it was edited let go of it."""
        live = self._let_go(key)
        if live.touched:
            live.layer.name = f"{BY_KEY[key].layer_name.removeprefix('crln: ')}, edited"
        elif live.layer in self._viewer.layers:
            with self._our_doing():
                self._viewer.layers.remove(live.layer)

    def close(self) -> None:
        """Let go of all layers; they stay as they are, those that were edited as the user's own."""
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        self._viewer.dims.events.ndisplay.disconnect(self._before_3d)
        self._viewer.dims.events.ndisplay.disconnect(self._on_ndisplay)
        for key in list(self._live):
            live = self._let_go(key)
            if not live.touched:
                leave(live.layer)

    def _show(self, spec: LiveMap, scene: _Scene) -> None:
        live = self._live.get(spec.key)
        if spec.kind == "points":
            self._show_points(spec, live, scene)
            return
        stored, strides = self._thinned(scene.frame.maps[spec.key].stored)
        if live is None:
            live = self._made(spec, stored, scene)
            self._place(live, scene.grid, strides)
            self._add(spec.key, live)
        else:  # napari takes a new shape, and then a new place
            if live.layer.data.ndim != stored.ndim:  # a user reshaped it, and napari forgot where it lay
                live.place = None
            _swap(live.layer, stored)
            self._place(live, scene.grid, strides)
        live.scale = scene.frame.maps[spec.key].quantisation
        live.layer.metadata.update(_tag(spec.key, scene))

    def _show_points(self, spec: LiveMap, live: _Live | None, scene: _Scene) -> None:
        anchors = scene.frame.anchors
        if live is not None:
            set_points(live.layer, anchors, scene.classes)
            self._place(live, scene.grid)
        elif anchors is not None:
            live = _Live(points_layer(spec, anchors, scene.classes))
            self._place(live, scene.grid)
            self._add(spec.key, live)
        if live is not None:
            step = None if anchors is None else anchors.step
            live.layer.metadata.update(_tag(spec.key, scene, anchors_step=step))

    def _made(self, spec: LiveMap, stored: NDArray[np.uint8], scene: _Scene) -> _Live:
        if spec.kind == "image":
            return _Live(image_layer(spec, stored))
        layer = labels_layer(spec, stored, scene.classes)
        if spec.key == "rectified":
            layer.contour = self._outline
        return _Live(layer)

    def _thinned(self, stored: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], ShapeDHW]:
        """What napari gets, and how many voxels of the map lie between two of it."""
        if self._viewer.dims.ndisplay < 3 or max(stored.shape) <= MOST_IN_3D:
            return stored, (1, 1, 1)
        d, h, w = (-(-size // MOST_IN_3D) for size in stored.shape)
        thin = stored[(d - 1) // 2 :: d, (h - 1) // 2 :: h, (w - 1) // 2 :: w]
        return np.ascontiguousarray(thin), (d, h, w)

    def _place(self, live: _Live, grid: Grid, strides: ShapeDHW = (1, 1, 1)) -> None:
        if live.place is not None and live.place[0] is grid and live.place[1] == strides:
            return
        live.place = grid, strides
        where = upright_placement(grid)
        thinning = np.diag([*strides, 1.0])
        thinning[:3, 3] = [(stride - 1) // 2 for stride in strides]
        where["affine"] = where["affine"] @ thinning
        for name, value in where.items():
            setattr(live.layer, name, value)

    def _add(self, key: str, live: _Live) -> None:
        layer = live.layer
        with same_selection(self._viewer):
            add_beneath(self._viewer, layer, _ABOVE)
        self._live[key] = live
        self._hear(live, layer.events.visible, self._on_visible)
        if isinstance(layer, Labels):
            self._hear(live, layer.events.paint, partial(self._on_edit, key))
        elif isinstance(layer, Points):
            self._hear(live, layer.events.data, partial(self._on_edit, key))

    def _hear(self, live: _Live, event: Any, callback: Callable[[Any], None]) -> None:
        event.connect(callback)
        live.disconnect.append(partial(event.disconnect, callback))

    def _let_go(self, key: str) -> _Live:
        live = self._live.pop(key)
        for disconnect in live.disconnect:
            disconnect()
        return live

    @contextmanager
    def _our_doing(self) -> Iterator[None]:
        before, self._ours = self._ours, True
        try:
            yield
        finally:
            self._ours = before

    def _on_visible(self, _event: Any = None) -> None:
        self._shown_again()

    def _before_3d(self, _event: Any = None) -> None:
        if self._viewer.dims.ndisplay == 3:
            self.outline(self._contour)

    def _on_ndisplay(self, _event: Any = None) -> None:
        self.outline(self._contour)
        scene = self._scene
        if scene is not None and max(scene.frame.shape) > MOST_IN_3D:
            self.show(scene.frame, scene.grid, scene.classes, scene.ticked & self._live.keys())

    def _on_edit(self, key: str, _event: Any) -> None:
        live = self._live.get(key)
        if live is not None and not live.touched and not self._ours:
            live.touched = True
            self._edited(key)

    def _on_removed(self, event: Any) -> None:
        key = next((key for key, live in self._live.items() if live.layer is own(event.value)), None)
        if key is not None and not self._ours:
            self._let_go(key)
            self._removed(key)


def _swap(layer: Any, stored: NDArray[np.uint8]) -> None:
    """Give a layer other values.

    On a `data` event napari computes the extent of all layers anew, and compiles the shader of a Labels layer:
    half of the time, and for values of the same shape for nothing. Drawing hears of them by `set_data`.
    """
    if layer.data.shape != stored.shape:
        layer.data = stored
        return
    with layer.events.data.blocker():
        layer.data = stored


def _tag(key: str, scene: _Scene, **further: Any) -> dict[str, Any]:
    """What the layer says about itself: enough to tell a voxel's value in words (`hover.py`)."""
    frame = scene.frame
    facts: dict[str, Any] = {
        "generation": frame.generation,
        "step": frame.step,
        "volume": frame.volume,
        "run": "" if frame.run is None else str(frame.run),
        "map": key,
        **true_affine(scene.grid),
    }
    if key in frame.maps:
        quantisation = frame.maps[key].quantisation
        facts |= {"scale": quantisation.scale, "offset": quantisation.offset}
    if key in PER_CLASS:
        facts["class"] = next((each.name for each in scene.classes if each.index == frame.class_index), "")
    if key == "similarity":
        facts["prototype"] = frame.prototype
    return tag("preview", **facts, **further)
