"""One open panel, without its widgets: model, presenter, threads and layers, joined; and their orderly end.

It belongs to no widget, so that it can be closed after Qt has deleted them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from napari_crln.gui.annotation_layer import AnnotationLayers
from napari_crln.gui.annotator import Annotator
from napari_crln.gui.bridge import Bridge
from napari_crln.gui.corrections import CORRECTABLE, covers
from napari_crln.gui.exporter import Exporter
from napari_crln.gui.hover import Hover
from napari_crln.gui.leftovers import take_away
from napari_crln.gui.live_layers import LiveLayers
from napari_crln.gui.live_maps import BY_KEY
from napari_crln.gui.model import PanelModel, Snapshot
from napari_crln.gui.opened_layers import OpenedLayers
from napari_crln.gui.predictor import Predictor
from napari_crln.gui.presenter import Launch, Presenter
from napari_crln.gui.preview_feed import TICK_S, Frame, PreviewFeed, wanted
from napari_crln.gui.project_files import VolumeData, read_volume
from napari_crln.gui.proofreader import Proofreader
from napari_crln.gui.shown_volumes import ShownVolumes
from napari_crln.gui.slice_visit import visit
from napari_crln.gui.strokes import Strokes
from napari_crln.gui.suggesting import SliceSuggester
from napari_crln.gui.suggestions import Place, SuggestionFeed
from napari_crln.gui.tags import tag_of
from napari_crln.gui.view_direction import ViewDirection
from napari_crln.gui.viewer_layers import together
from napari_crln.run.launch import launch
from napari_crln.volume.annotate import Plane

_FOCUS_EVERY_S = 0.3
_SAVE_EVERY_S = 0.1
_SUGGESTIONS_EVERY_S = 1.0


class Session:
    """Everything behind a panel.

    Parameters
    ----------
    viewer : napari's
    start_process : for tests
    """

    def __init__(self, viewer: Any, start_process: Launch = launch) -> None:
        self.viewer = viewer
        self.model = PanelModel()
        self.bridge = Bridge()
        self.presenter = Presenter(self.model, self.bridge, start_process)
        self.predictor = Predictor(self.model, self.bridge, self._labels_written, start_process)
        self.exporter = Exporter(self.model, self.bridge)
        self.proofreader = Proofreader(
            self.model, self.bridge, self.presenter.labels_changed, self._labels_written
        )
        self.volumes = ShownVolumes(viewer, self._forget)
        self.live = LiveLayers(viewer, self._deleted, self._edited, self._want)
        self.strokes = Strokes(viewer)
        self.hover = Hover(viewer)
        self.view_direction = ViewDirection(viewer)
        self.feed = PreviewFeed(self.bridge, self._show_frame, self._failed, held=lambda: self.strokes.active)
        self.annotator = Annotator(self.model, self.bridge, self.presenter.refresh_volumes, self._reload)
        self.annotation = AnnotationLayers(viewer, self.annotator, self._plane, self._belief)
        self.annotation.remark = lambda text: self.model.say(text, "warning")
        self.suggestions = SuggestionFeed(self.model, self.bridge)
        self.suggester = SliceSuggester(self.model, self.bridge, start_process)
        #: Selects the layer that a volume is annotated on, with the brush ready.
        self.ready_to_paint: Callable[[str], object] = self._ready
        self._to_paint = ""
        self.opened = OpenedLayers(viewer, self._opened_elsewhere)
        self._going: Place | None = None
        self._closed = False
        self.model.changed.connect(self._on_changed)
        self.bridge.every(TICK_S, self.feed.tick)
        self.bridge.every(_FOCUS_EVERY_S, self._send_focus)
        self.bridge.every(_SAVE_EVERY_S, self.annotator.tick)
        self.bridge.every(_SUGGESTIONS_EVERY_S, self.suggestions.tick)
        self.opened.look()

    def close(self) -> None:
        """End threads; the run goes on or stops as the user chose, a prediction ends."""
        if self._closed:
            return
        self._closed = True
        self.model.changed.disconnect(self._on_changed)
        ends = (
            self.opened.close, self.annotation.close, self.annotator.close, self.presenter.close, self.predictor.close,
            self.suggester.close, self.bridge.close, self.volumes.close, self.live.close, self.strokes.close,
            self.hover.close, self.view_direction.close,
        )  # fmt: skip
        with ExitStack() as stack:  # each is called, whatever another raises
            for end in reversed(ends):
                stack.callback(end)

    def go_to(self, place: Place) -> None:
        """Show a slice of a volume, and make ready to paint on it; at once, or when the volume has been read."""
        self._going = place
        self.presenter.show_volume(place.volume)
        self._arrive()

    def _arrive(self) -> None:
        """If the volume is in the viewer, go to the slice; another volume that was clicked meanwhile wins."""
        place, self._going = self._going, None
        if place is None or place.volume != self.model.snapshot.shown:
            return
        image = self.volumes.layer("image")
        if place.volume != self.volumes.shown or image is None:
            self._going = place
            return
        visit(self.viewer, image, self.volumes.grids[place.volume].shape, place.axis, place.index)
        self.ready_to_paint(place.volume)

    def _on_changed(self, now: Snapshot, old: Snapshot) -> None:
        if old.project is not None and _path(now) != _path(old):
            self.viewer.layers.selection.clear()  # before any of them goes: `viewer_layers.py`
            with together(self.viewer):
                self.live.keep_only(frozenset())
                self.annotation.clear()
                self.volumes.clear()
        if old.run.folder is not None and now.run.folder != old.run.folder:
            self.live.on_run()
            self.feed.forget()  # the same maps are drawn again if the user comes back
        if (now.shown, _path(now)) != (old.shown, _path(old)) and now.shown:
            self._load(now)
        if now.annotation != old.annotation:
            self._follow_annotation(now, old)
        if now.live != old.live:
            self.feed.throttle.least_s = now.live.every_s
            self.live.keep_only(now.live.shown)
            self.live.outline(int(now.live.contour))
            if now.live.shown - old.live.shown or now.live.class_index != old.live.class_index:
                self.feed.forget()
        if now.run.previews[-1:] != old.run.previews[-1:]:
            self.presenter.look_for_previews()
        self._want()

    def _load(self, now: Snapshot) -> None:
        if now.project is not None and now.shown:
            read = partial(read_volume, now.project.path, now.shown)
            self.bridge.run(read, partial(self._loaded, now), self._failed)

    def _loaded(self, asked: Snapshot, data: VolumeData) -> None:
        now = self.model.snapshot
        if now.project is None or _path(asked) != _path(now) or data.name != now.shown:
            return  # another one was clicked meanwhile
        take_away(self.viewer)  # of a panel that was open before
        painted = self.opened.give_way(now.project.path, data)
        if painted is not None:  # before there was a panel to save it
            data = replace(data, annotation=painted)
        self.volumes.show(data, now.project.classes)
        on = now.annotation.on or painted is not None
        self.annotation.show(now.project.path, data, now.project.classes, on)
        if painted is not None:
            self.annotator.touch(data.name)
        self.live.on_volume(data.name, data.grid)
        self._arrive()
        if self._to_paint == data.name:
            self.annotation.ready(data.name)
        self._to_paint = ""
        self.feed.forget()
        self._want()

    def _ready(self, volume: str) -> None:
        """Select the layer that a volume is annotated on, with the brush ready; made again if the user has deleted it."""
        if not self.annotation.ready(volume) and volume:
            self._to_paint = volume
            self._load(self.model.snapshot)

    def show_again(self) -> None:
        """Bring back what the user has deleted of the shown volume."""
        self._load(self.model.snapshot)

    def _forget(self, volume: str) -> None:
        self.annotation.forget(volume)

    def _opened_elsewhere(self, folder: Path) -> None:
        """napari's reader has opened a project or a run: the panel does, unless it has another one open."""
        now = self.model.snapshot
        if now.project is None and not now.busy:
            self.presenter.open_project(folder)
        elif now.project is not None and folder.resolve().is_relative_to(now.project.path.resolve()):
            self._load(now)

    def _want(self) -> None:
        now = self.model.snapshot
        visible = frozenset(BY_KEY) - self.live.hidden
        self.feed.want(wanted(now, visible) if now.shown in self.volumes.grids else None)

    def _show_frame(self, frame: Frame) -> Iterator[None]:
        now = self.model.snapshot
        grid = self.volumes.grids.get(frame.volume)
        if grid is None or now.project is None or frame.volume != now.shown:
            return
        about = now.run.folder, now.shown, now.live.shown
        for part in self.live.showing(frame, grid, now.project.classes, now.live.shown):
            yield part
            then = self.model.snapshot
            if (then.run.folder, then.shown, then.live.shown) != about:
                return  # what comes next draws all of it

    def _send_focus(self) -> None:
        position = self.volumes.position()
        if position is not None:
            self.presenter.focus(self.volumes.shown, *position)

    def _labels_written(self) -> None:
        self.presenter.refresh_volumes()
        self._load(self.model.snapshot)

    def _reload(self) -> None:
        self._load(self.model.snapshot)

    def complete_slice(self) -> None:
        """Say that the slice in the viewer is annotated completely."""
        if not self.annotation.complete_slice():
            self.model.say(
                "Show one slice of a volume that may be trained on: in 3D there is none.", "warning"
            )

    def _follow_annotation(self, now: Snapshot, old: Snapshot) -> None:
        self.annotation.correcting = now.annotation.correcting
        if now.annotation.on != old.annotation.on:
            self.annotation.set_shown(now.annotation.on)
            if now.annotation.on and now.shown and self.annotation.layer(now.shown) is None:
                self._load(now)
        if now.annotation.correcting and not old.annotation.correcting:
            self.annotation.ready(now.shown)

    def _plane(self) -> Plane | None:
        position = self.volumes.position()
        return None if position is None else Plane(*position)

    def _belief(self, plane: Plane) -> tuple[Any, str] | None:
        """What the user sees of the network's labels of a slice, and its name: a live map that has all of it, else the prediction."""
        shape = self.volumes.grids[self.volumes.shown].shape
        for key in CORRECTABLE:
            layer = self.live.layer(key)
            if (
                layer is not None
                and layer.visible
                and layer.data.shape == shape
                and self._shows(layer, plane)
            ):
                return layer.data, f"'{layer.name}' of iteration {tag_of(layer.metadata).get('step', 0)}"
        prediction = self.volumes.layer("prediction")
        return None if prediction is None else (prediction.data, "the stored prediction")

    def _shows(self, layer: Any, plane: Plane) -> bool:
        """Whether a live layer has all of a slice: by its generation's region, or a whole one that it lies over."""
        now, about = self.model.snapshot, tag_of(layer.metadata)
        own = [
            p
            for p in now.run.previews
            if p.volume == now.shown and p.generation <= about.get("generation", 0)
        ]
        shape = self.volumes.grids[self.volumes.shown].shape
        same = (about.get("volume"), about.get("run")) == (now.shown, str(now.run.folder))
        return same and any(covers(p.region, shape, plane) for p in own if p.kept or p is own[-1])

    def _deleted(self, key: str) -> None:
        self.presenter.tick_map(key, False)

    def _edited(self, key: str) -> None:
        live = self.model.snapshot.live
        self.presenter.set_live(edited=live.edited | {key})
        name = BY_KEY[key].layer_name
        self.model.say(
            f"You changed '{name}': it is no longer updated. Untick it to keep it as your own layer; "
            "tick it again for a live one.",
            "warning",
        )

    def _failed(self, error: Exception) -> None:
        self.model.say(f"{error}", "error")


def _path(now: Snapshot) -> Any:
    return None if now.project is None else now.project.path
