"""A click on a suggestion: the volume, the slice, the zoom, the layer to paint on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_crln.config import build
from napari_crln.events import SUGGESTIONS_FILE
from napari_crln.gui.suggestions import Place
from napari_crln.run.folder import RunFolder
from napari_crln.suggestions import Suggestion, Suggestions

pytestmark = pytest.mark.gui

#: Beyond the first volume, which is shown when a project opens.
PLACES = (("phantom_002", 0, 3), ("phantom_000", 2, 9), ("phantom_002", 1, 20))


@pytest.fixture
def listed(sample: Path, panel: Any, wait: Callable[..., None]) -> Iterator[Any]:
    """The panel with a run that has suggestions."""
    run = RunFolder.create(sample, build({"method": {"name": "supervised"}})).path
    items = tuple(
        Suggestion(volume=v, axis=a, index=i, score=0.5, uncertainty=3.0, novelty=0.2, why="why it is so")
        for v, a, i in PLACES
    )
    (run / SUGGESTIONS_FILE).write_text(
        Suggestions(step=4, surveyed=3, volumes=4, note="Said.", items=items).model_dump_json()
    )
    panel.session.presenter.open_project(sample)
    wait(lambda: panel.session.model.snapshot.project is not None)
    panel.session.presenter.attach(run)
    wait(lambda: panel.suggest.list.count() == len(PLACES))
    yield panel
    import shutil

    shutil.rmtree(run)


def _click(panel: Any, qtbot: Any, row: int) -> None:
    rows = panel.suggest.list
    rows.scrollToItem(rows.item(row))
    qtbot.mouseClick(
        rows.viewport(), Qt.MouseButton.LeftButton, pos=rows.visualItemRect(rows.item(row)).center()
    )


def test_rows_say_what_and_why_and_get_pictures(listed: Any, wait: Callable[..., None]) -> None:
    rows = listed.suggest.list
    assert "phantom_002  ·  slice z 3" in rows.item(0).text()
    assert "why it is so" in rows.item(0).text()
    assert "3 mm²" in rows.item(0).toolTip()
    assert "iteration 4, 3 of 4 volumes seen. Said." in listed.suggest.hint.text()
    wait(lambda: all(not rows.item(row).icon().isNull() for row in range(len(PLACES))))


@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_click_shows_volume_and_slice_fills_the_canvas_and_readies_the_brush(
    listed: Any, qtbot: Any, wait: Callable[..., None], row: int
) -> None:
    session, (volume, axis, index) = listed.session, PLACES[row]
    asked: list[str] = []
    session.ready_to_paint = asked.append
    for layer in session.viewer.layers:
        if hasattr(layer, "contour"):
            layer.contour = 0  # napari warns of contours in 3D
    session.viewer.dims.ndisplay = 3
    zoom = session.viewer.scene.camera.zoom = 0.1
    _click(listed, qtbot, row)
    wait(lambda: asked)
    assert asked == [volume]
    assert session.volumes.shown == session.model.snapshot.shown == volume
    assert session.volumes.position() == (axis, index)
    image = session.viewer.layers[volume]
    assert image.visible
    # The slice is centred, and takes most of the canvas.
    shown = [other for other in range(3) if other != axis]
    extent = image.extent.world
    centre = np.array(session.viewer.scene.camera.center)[-2:]
    assert session.viewer.scene.camera.zoom > 10 * zoom
    np.testing.assert_allclose(centre, extent.mean(0)[shown], atol=1.0)


def test_the_last_click_wins(listed: Any, qtbot: Any, wait: Callable[..., None]) -> None:
    asked: list[str] = []
    listed.session.ready_to_paint = asked.append
    _click(listed, qtbot, 0)
    _click(listed, qtbot, 1)
    wait(lambda: asked and listed.session.volumes.position() == (2, 9))
    qtbot.wait(300)
    assert asked == ["phantom_000"]
    assert listed.session.volumes.shown == "phantom_000"


def test_the_annotation_layer_is_selected_with_the_brush(
    listed: Any, qtbot: Any, wait: Callable[..., None]
) -> None:
    session = listed.session
    wait(lambda: session.annotation.layer("phantom_000") is not None)
    session.viewer.layers.selection.active = session.volumes.layer("image")
    session.go_to(Place("phantom_000", 0, 2))
    active = session.viewer.layers.selection.active
    assert active.name == "phantom_000 annotation"
    assert active.mode == "paint"


def test_a_volume_that_is_gone_is_not_waited_for(listed: Any, qtbot: Any, wait: Callable[..., None]) -> None:
    asked: list[str] = []
    listed.session.ready_to_paint = asked.append
    listed.session.go_to(Place("no such", 0, 2))
    listed.session.presenter.show_volume("phantom_001")
    wait(lambda: listed.session.volumes.shown == "phantom_001")
    assert asked == []
