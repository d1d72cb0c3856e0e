"""The Live section against a run with generations on disk: history, volumes, removed maps, methods without clues."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from napari_crln.config import build
from napari_crln.engine.generations import Generations
from napari_crln.events import Ended, Previewed, Started, dump_line
from napari_crln.gui.preview_feed import Frame, MapPicture
from napari_crln.previews import AnchorRecord, FocusRecord, MapRecord, PreviewRecord, exact, group_name
from napari_crln.run.folder import RunFolder

pytestmark = pytest.mark.gui

MAPS = ("prediction", "rectified")


class Shown:
    """A panel that watches an ended run."""

    def __init__(self, panel: Any, project: Path, method: str) -> None:
        self.panel, self.session, self.section = panel, panel.session, panel.live
        self.folder = RunFolder.create(project, build({"iterations": 3, "method": {"name": method}})).path
        self._log(Started(step=0, method=method, iterations=9, pid=1, host="h", labelled=1, unlabelled=1,
                          parameters=1, prototypes=4 if method == "crln" else 0))  # fmt: skip

    def _log(self, *events: Any) -> None:
        with (self.folder / "events.jsonl").open("ab") as log:
            log.writelines(map(dump_line, events))

    def publish(
        self, volume: str, shape: tuple[int, int, int], value: int, maps: tuple[str, ...] = MAPS
    ) -> int:
        draft = Generations(self.folder / "preview.zarr", 99).begin(shape)
        for name in maps:
            draft.append(name, np.ones(shape, np.uint8), exact())
        record = PreviewRecord(
            generation=draft.generation, volume=volume, step=value, step_done=value, shape=shape,
            region=tuple((0, n) for n in shape), spacing=(1, 1, 1), classes=("background", "body"),
            focus=FocusRecord(axis=0, index=3), maps={name: MapRecord() for name in maps},
            anchors=AnchorRecord(step=value, points=((1, 2, 3, 4),)),
        )  # fmt: skip
        draft.publish(record)
        self._log(Previewed(step=value, generation=draft.generation, volume=volume, maps=list(maps)))
        return draft.generation

    def end(self) -> None:
        self._log(Ended(step=9, reason="finished"))

    def step(self, key: str = "prediction") -> Any:
        layer = self.session.live.layer(key)
        return None if layer is None else layer.metadata["crln"]["step"]


@pytest.fixture
def shown(panel: Any, sample: Path, wait: Callable[..., None]) -> Shown:
    panel.session.presenter.open_project(sample)
    wait(lambda: panel.session.volumes.shown == "phantom_000")
    return Shown(panel, sample, "crln")


def _tick(shown: Shown, *keys: str) -> None:
    for key, box in shown.section.ticks.items():
        box.setChecked(key in keys)


def test_history_volumes_and_removed_generations(shown: Shown, wait: Callable[..., None]) -> None:
    shape = shown.session.volumes.grids["phantom_000"].shape
    first = shown.publish("phantom_000", shape, 1)
    shown.publish("phantom_001", shape, 2)
    shown.publish("phantom_000", shape, 3)
    shown.publish("phantom_000", shape, 4)
    shown.end()
    _tick(shown, "prediction", "rectified", "anchors")
    shown.session.presenter.attach(shown.folder)
    wait(lambda: shown.step() == 4)
    assert (shown.section.history.maximum(), shown.section.history.value()) == (2, 2)

    shown.section.history.setValue(0)
    wait(lambda: shown.step() == shown.step("anchors") == 1)
    assert "iteration 1" in shown.section.seen.text()

    shutil.rmtree(shown.folder / "preview.zarr" / group_name(first))
    shown.session.presenter.look_for_previews()
    wait(lambda: "removed" in shown.section.seen.text())
    assert shown.step() == 1
    assert shown.session.live.layer("prediction").data.all()
    assert shown.session.model.snapshot.message.level != "error"

    shown.session.presenter.show_volume("phantom_001")
    wait(lambda: shown.step() == 2)
    assert not shown.section.history.isEnabled()
    shown.session.presenter.show_volume("phantom_002")
    wait(lambda: shown.session.volumes.shown == "phantom_002")
    assert not shown.session.live.layer("prediction").data.any(), "nothing is known of this volume"
    shown.session.presenter.show_volume("phantom_000")
    wait(lambda: shown.step() == 4)

    shown.section.contour.setChecked(True)
    assert shown.session.live.layer("rectified").contour == 1
    shown.section.contour.setChecked(False)
    assert shown.session.live.layer("rectified").contour == 0

    _wait_for_prototype(shown)


def test_maps_of_a_run_that_is_no_longer_watched_vanish_and_come_back_with_it(
    shown: Shown, sample: Path, wait: Callable[..., None], qtbot: Any
) -> None:
    session, shape = shown.session, shown.session.volumes.grids["phantom_000"].shape
    shown.publish("phantom_000", shape, 4)
    shown.end()
    _tick(shown, "prediction", "rectified")
    session.presenter.attach(shown.folder)
    wait(lambda: shown.step() == shown.step("rectified") == 4)
    maps = {key: MapPicture(np.ones(shape, np.uint8), exact()) for key in MAPS}
    parts = session._show_frame(Frame("phantom_000", 1, 4, shape, maps, run=shown.folder))
    next(parts)

    other = Shown(shown.panel, sample, "crln")  # without maps
    other.end()
    session.presenter.attach(other.folder)
    assert next(parts, "ended") == "ended", "of a frame that is drawn a layer at a time"
    wait(lambda: "has left none" in shown.section.seen.text())
    qtbot.wait(200)
    assert not any(session.live.layer(key).data.any() for key in MAPS)

    session.presenter.attach(shown.folder)
    wait(lambda: shown.step() == shown.step("rectified") == 4)
    assert all(session.live.layer(key).data.all() for key in MAPS)


def test_a_map_that_was_painted_on_in_one_project_comes_in_the_next(
    shown: Shown, sample: Path, wait: Callable[..., None], tmp_path: Path
) -> None:
    session, shape = shown.session, shown.session.volumes.grids["phantom_000"].shape
    next_project = Path(
        shutil.copytree(sample, tmp_path / "next.crln", ignore=shutil.ignore_patterns("runs"))
    )
    shown.publish("phantom_000", shape, 1)
    _tick(shown, "prediction")
    session.presenter.attach(shown.folder)
    wait(lambda: shown.step() == 1)
    painted = session.live.layer("prediction")
    painted.paint((5, 5, 5), 2)
    assert session.model.snapshot.live.edited == {"prediction"}

    other = Shown(shown.panel, next_project, "crln")
    other.publish("phantom_000", shape, 2)
    other.end()
    session.presenter.open_project(next_project)
    wait(lambda: other.step() == 2)
    assert painted in session.viewer.layers, "the user's own"
    assert "You changed it" not in shown.section.ticks["prediction"].toolTip()


def _wait_for_prototype(shown: Shown) -> None:
    """4 prototypes, and the run has ended: they can be seen but not chosen, and it says why."""
    assert shown.section.prototype.maximum() == 4
    assert not shown.section.prototype.isEnabled()
    assert "while a run trains" in shown.section.prototype.toolTip()


@pytest.mark.parametrize("method", ["supervised", "mean-teacher"])
def test_a_method_without_clues_shows_what_it_has_and_says_what_it_has_not(
    panel: Any, sample: Path, wait: Callable[..., None], method: str
) -> None:
    panel.session.presenter.open_project(sample)
    wait(lambda: panel.session.volumes.shown == "phantom_000")
    shown = Shown(panel, sample, method)
    shape = shown.session.volumes.grids["phantom_000"].shape
    shown.publish("phantom_000", shape, 5, ("pseudo_label", "prediction"))
    shown.end()
    _tick(shown, *shown.section.ticks)
    shown.session.presenter.attach(shown.folder)
    wait(lambda: shown.step() == 5)
    for key in ("rectified", "changed", "similarity", "clues", "anchors"):
        assert not shown.section.ticks[key].isEnabled()
        assert method in shown.section.ticks[key].toolTip()
    assert shown.section.ticks["uncertainty"].isEnabled()
    assert not shown.section.prototype.isEnabled()
    assert method in shown.section.missing.text()
    assert shown.session.live.layer("clues") is None


def test_the_panel_waits_while_the_user_paints(shown: Shown, wait: Callable[..., None], qtbot: Any) -> None:
    shape = shown.session.volumes.grids["phantom_000"].shape
    strokes = shown.session.strokes
    shown.session.strokes = SimpleNamespace(active=True, close=strokes.close)  # the true one sees the mouse
    shown.publish("phantom_000", shape, 7)
    shown.end()
    _tick(shown, "prediction")
    shown.session.presenter.attach(shown.folder)
    wait(lambda: [p.step for p in shown.session.model.snapshot.run.previews] == [7])
    qtbot.wait(300)
    assert shown.step() != 7
    shown.session.strokes = strokes
    wait(lambda: shown.step() == 7)


@pytest.mark.filterwarnings(
    "ignore:Contours are not displayed"
)  # of the volume's own labels, which have an outline
def test_a_panel_opened_in_3d_shows_live_layers(shown: Shown, wait: Callable[..., None]) -> None:
    shape = shown.session.volumes.grids["phantom_000"].shape
    shown.session.viewer.dims.ndisplay = 3
    shown.session.viewer.mouse_over_canvas = True
    shown.publish("phantom_000", shape, 9)
    shown.end()
    _tick(shown, "prediction", "anchors")
    shown.session.presenter.attach(shown.folder)
    wait(lambda: shown.step() == shown.step("anchors") == 9)


def test_what_the_user_does_to_live_layers_lasts(shown: Shown, wait: Callable[..., None], qtbot: Any) -> None:
    """Rename, delete, hide and edit, each while new maps come."""
    viewer, live, model = shown.session.viewer, shown.session.live, shown.session.model
    shape = shown.session.volumes.grids["phantom_000"].shape
    _tick(shown, "prediction", "rectified")
    shown.section.every.setValue(0.1)
    shown.publish("phantom_000", shape, 1)
    shown.session.presenter.attach(shown.folder)
    wait(lambda: shown.step() == shown.step("rectified") == 1)

    live.layer("prediction").name = "mine"
    viewer.layers.remove(live.layer("rectified"))
    shown.publish("phantom_000", shape, 2)
    wait(lambda: shown.step() == 2)
    assert live.layer("prediction").name == "mine"
    assert live.layer("rectified") is None
    assert not shown.section.ticks["rectified"].isChecked()
    shown.section.ticks["rectified"].click()
    wait(lambda: shown.step("rectified") == 2)

    live.layer("rectified").visible = False
    shown.publish("phantom_000", shape, 3)
    wait(lambda: shown.step() == 3)
    assert shown.step("rectified") == 2, "what is not seen costs nothing"
    live.layer("rectified").visible = True
    wait(lambda: shown.step("rectified") == 3)

    edited = live.layer("prediction")
    edited.data_setitem((np.array([0]), np.array([0]), np.array([0])), 2)
    kept = edited.data.copy()
    assert "no longer updated" in model.snapshot.message.text
    shown.publish("phantom_000", shape, 4)
    wait(lambda: shown.step("rectified") == 4)
    qtbot.wait(300)
    shown.section.ticks["prediction"].click()
    shown.section.ticks["prediction"].click()
    wait(lambda: shown.step() == 4)
    assert live.layer("prediction") is not edited
    assert edited in viewer.layers
    np.testing.assert_array_equal(edited.data, kept)


def test_the_warning_of_an_edited_layer_goes_when_it_is_let_go(shown: Shown) -> None:
    _tick(shown, "prediction")
    shown.session._edited("prediction")
    assert "no longer updated" in shown.panel.status.text()
    _tick(shown)
    assert "'crln: prediction', which you painted on, stays" in shown.panel.status.text()
    _tick(shown, "prediction")
    assert "no longer updated" not in shown.panel.status.text()
