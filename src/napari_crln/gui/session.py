"""One open panel, without its widgets: model, presenter, threads and layers, joined; and their orderly end.

It belongs to no widget, so that it can be closed after Qt has deleted them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from napari_crln.gui.bridge import Bridge
from napari_crln.gui.exporter import Exporter
from napari_crln.gui.live_layers import LiveLayers
from napari_crln.gui.live_maps import BY_KEY
from napari_crln.gui.model import PanelModel, Snapshot
from napari_crln.gui.predictor import Predictor
from napari_crln.gui.presenter import Launch, Presenter
from napari_crln.gui.preview_feed import Frame, PreviewFeed, wanted
from napari_crln.gui.project_files import VolumeData, read_volume
from napari_crln.gui.proofreader import Proofreader
from napari_crln.gui.shown_volumes import ShownVolumes
from napari_crln.gui.slice_visit import select_to_paint, visit
from napari_crln.gui.suggesting import SliceSuggester
from napari_crln.gui.suggestions import Place, SuggestionFeed
from napari_crln.run.launch import launch

_TICK_S = 0.05
_FOCUS_EVERY_S = 0.3
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
        self.volumes = ShownVolumes(viewer)
        self.live = LiveLayers(viewer, self._deleted, self._edited, self._want)
        self.feed = PreviewFeed(self.bridge, self._show_frame, self._failed)
        self.suggestions = SuggestionFeed(self.model, self.bridge)
        self.suggester = SliceSuggester(self.model, self.bridge, start_process)
        #: Selects the layer that a volume is annotated on, with the brush ready.
        self.ready_to_paint: Callable[[str], None] = self._select_labels
        self._going: Place | None = None
        self._closed = False
        self.model.changed.connect(self._on_changed)
        self.bridge.every(_TICK_S, self.feed.tick)
        self.bridge.every(_FOCUS_EVERY_S, self._send_focus)
        self.bridge.every(_SUGGESTIONS_EVERY_S, self.suggestions.tick)

    def close(self) -> None:
        """End threads; the run goes on or stops as the user chose, a prediction ends."""
        if self._closed:
            return
        self._closed = True
        self.model.changed.disconnect(self._on_changed)
        self.presenter.close()
        self.predictor.close()
        self.suggester.close()
        self.bridge.close()
        self.live.close()

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

    def _select_labels(self, _volume: str) -> None:
        select_to_paint(self.viewer, self.volumes.layer("labels"))

    def _on_changed(self, now: Snapshot, old: Snapshot) -> None:
        if _path(now) != _path(old):
            self.live.keep_only(frozenset())
            self.volumes.clear()
        if (now.shown, _path(now)) != (old.shown, _path(old)) and now.shown:
            self._load(now)
        if now.live != old.live:
            self.feed.throttle.least_s = now.live.every_s
            self.live.keep_only(now.live.shown)
            if now.live.shown - old.live.shown or now.live.class_index != old.live.class_index:
                self.feed.forget()
        self._want()

    def _load(self, now: Snapshot) -> None:
        if now.project is not None:
            read = partial(read_volume, now.project.path, now.shown)
            self.bridge.run(read, partial(self._loaded, now), self._failed)

    def _loaded(self, asked: Snapshot, data: VolumeData) -> None:
        now = self.model.snapshot
        if now.project is None or _path(asked) != _path(now) or data.name != now.shown:
            return  # another one was clicked meanwhile
        self.volumes.show(data, now.project.classes)
        self._arrive()
        self.feed.forget()
        self._want()

    def _want(self) -> None:
        now = self.model.snapshot
        visible = frozenset(BY_KEY) - self.live.hidden
        self.feed.want(wanted(now, visible) if now.shown in self.volumes.grids else None)

    def _show_frame(self, frame: Frame) -> None:
        now = self.model.snapshot
        grid = self.volumes.grids.get(frame.volume)
        if grid is not None and now.project is not None and frame.volume == now.shown:
            self.live.show(frame, grid, now.project.classes, now.live.shown)

    def _send_focus(self) -> None:
        position = self.volumes.position()
        if position is not None:
            self.presenter.focus(self.volumes.shown, *position)

    def _labels_written(self) -> None:
        self.presenter.refresh_volumes()
        self._load(self.model.snapshot)

    def _deleted(self, key: str) -> None:
        self.presenter.tick_map(key, False)

    def _edited(self, key: str) -> None:
        live = self.model.snapshot.live
        self.presenter.set_live(edited=live.edited | {key})
        name = BY_KEY[key].layer_name
        self.model.say(
            f"You painted on '{name}': it is no longer updated. Untick it to keep it as your own layer; "
            "tick it again for a live one.",
            "warning",
        )

    def _failed(self, error: Exception) -> None:
        self.model.say(f"{error}", "error")


def _path(now: Snapshot) -> Any:
    return None if now.project is None else now.project.path
