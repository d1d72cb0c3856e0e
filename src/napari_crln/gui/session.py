"""One open panel, without its widgets: model, presenter, threads and layers, joined; and their orderly end.

It belongs to no widget, so that it can be closed after Qt has deleted them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from napari_crln.gui.bridge import Bridge
from napari_crln.gui.hover import Hover
from napari_crln.gui.live_layers import LiveLayers
from napari_crln.gui.live_maps import BY_KEY
from napari_crln.gui.model import PanelModel, Snapshot
from napari_crln.gui.predictor import Predictor
from napari_crln.gui.presenter import Launch, Presenter
from napari_crln.gui.preview_feed import Frame, PreviewFeed, wanted
from napari_crln.gui.project_files import VolumeData, read_volume
from napari_crln.gui.shown_volumes import ShownVolumes
from napari_crln.gui.strokes import Strokes
from napari_crln.gui.view_direction import ViewDirection
from napari_crln.run.launch import launch

_TICK_S = 0.05
_FOCUS_EVERY_S = 0.3


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
        self.predictor = Predictor(self.model, self.bridge, self._predicted, start_process)
        self.volumes = ShownVolumes(viewer)
        self.live = LiveLayers(viewer, self._deleted, self._edited, self._want)
        self.strokes = Strokes(viewer)
        self.hover = Hover(viewer)
        self.view_direction = ViewDirection(viewer)
        self.feed = PreviewFeed(self.bridge, self._show_frame, self._failed, held=lambda: self.strokes.active)
        self._closed = False
        self.model.changed.connect(self._on_changed)
        self.bridge.every(_TICK_S, self.feed.tick)
        self.bridge.every(_FOCUS_EVERY_S, self._send_focus)

    def close(self) -> None:
        """End threads; the run goes on or stops as the user chose, a prediction ends."""
        if self._closed:
            return
        self._closed = True
        self.model.changed.disconnect(self._on_changed)
        self.presenter.close()
        self.predictor.close()
        self.bridge.close()
        for part in (self.live, self.strokes, self.hover, self.view_direction):
            part.close()

    def _on_changed(self, now: Snapshot, old: Snapshot) -> None:
        if _path(now) != _path(old):
            self.live.keep_only(frozenset())
            self.volumes.clear()
        if (now.shown, _path(now)) != (old.shown, _path(old)) and now.shown:
            self._load(now)
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
        if now.project is not None:
            read = partial(read_volume, now.project.path, now.shown)
            self.bridge.run(read, partial(self._loaded, now), self._failed)

    def _loaded(self, asked: Snapshot, data: VolumeData) -> None:
        now = self.model.snapshot
        if now.project is None or _path(asked) != _path(now) or data.name != now.shown:
            return  # another one was clicked meanwhile
        self.volumes.show(data, now.project.classes)
        self.live.on_volume(data.name, data.grid)
        self.feed.forget()
        self._want()

    def _want(self) -> None:
        now = self.model.snapshot
        visible = frozenset(BY_KEY) - self.live.hidden
        self.feed.want(wanted(now, visible) if now.shown in self.volumes.grids else None)

    def _show_frame(self, frame: Frame) -> Iterator[None]:
        now = self.model.snapshot
        grid = self.volumes.grids.get(frame.volume)
        if grid is None or now.project is None or frame.volume != now.shown:
            return
        for part in self.live.showing(frame, grid, now.project.classes, now.live.shown):
            yield part
            if (self.model.snapshot.shown, self.model.snapshot.live.shown) != (frame.volume, now.live.shown):
                return  # what comes next draws all of it

    def _send_focus(self) -> None:
        position = self.volumes.position()
        if position is not None:
            self.presenter.focus(self.volumes.shown, *position)

    def _predicted(self) -> None:
        self.presenter.refresh_volumes()
        self._load(self.model.snapshot)

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
