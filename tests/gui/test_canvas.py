"""What happens at the mouse: values in the status bar, pauses while painting, and 3D before the mouse has moved."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.utils._proxies import ReadOnlyWrapper
from napari.utils.interactions import mouse_move_callbacks, mouse_press_callbacks, mouse_release_callbacks

from napari_crln.gui.hover import Hover
from napari_crln.gui.layer_data import placement
from napari_crln.gui.live_layers import LiveLayers
from napari_crln.gui.preview_feed import Frame, MapPicture
from napari_crln.gui.strokes import Strokes
from napari_crln.gui.tags import tag
from napari_crln.gui.view_direction import ViewDirection
from napari_crln.previews import AnchorRecord, Quantisation, symmetric, unit
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable

pytestmark = pytest.mark.gui

CLASSES = tuple(ClassTable.from_ids({"background": 0, "body": 1}))
GRID = Grid.from_spacing((4, 8, 8), (2.0, 1.0, 1.0))
PLACE = (4.0, 3.0, 5.0)  # of voxel (2, 3, 5), mm
SCALES = {
    "clues": symmetric(-4, 4),
    "similarity": Quantisation(scale=0.01, offset=-1.0),
    "uncertainty": unit(),
}


def _show(live: LiveLayers, values: dict[str, float], anchors: AnchorRecord | None = None) -> None:
    maps = {}
    for key, value in values.items():
        scale = SCALES.get(key, Quantisation())
        stored = np.full(GRID.shape, scale.quantise(np.zeros(1))[0], np.uint8)
        stored[2, 3, 5] = scale.quantise(np.array([value]))[0]
        maps[key] = MapPicture(stored, scale)
    frame = Frame("a", 1, 1, GRID.shape, maps, anchors, 1, 3)
    live.show(frame, GRID, CLASSES, frozenset(values) | {"anchors"})


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    viewer = make_napari_viewer()
    viewer.mouse_over_canvas = True
    return viewer


@pytest.fixture
def live(viewer: Any) -> LiveLayers:
    return LiveLayers(viewer, lambda key: None, lambda key: None, lambda: None)


@pytest.fixture
def hover(viewer: Any) -> Iterator[Hover]:
    hover = Hover(viewer)
    yield hover
    hover.close()


def _bar(viewer: Any) -> str:
    """What the status bar shows."""
    return str(viewer.window._status_bar._coordinates.text() or viewer.window._status_bar._status.text())


def _point(viewer: Any, place: tuple[float, float, float]) -> None:
    viewer.dims.set_point(0, place[0])
    viewer.cursor.position = place
    viewer.update_status_from_cursor()


def test_the_status_bar_tells_every_map_in_its_own_unit(viewer: Any, live: LiveLayers, hover: Hover) -> None:
    image = viewer.add_image(np.zeros(GRID.shape), affine=np.diag([2.0, 1, 1, 1]))
    _show(live, {"clues": 1.3, "similarity": 0.7, "uncertainty": 0.42, "prediction": 1, "changed": 2})
    assert viewer.layers.selection.active is image
    _point(viewer, PLACE)
    assert "clues (body): +1.3" in _bar(viewer)
    assert "similarity (body, prototype 3): 0.70" in _bar(viewer)
    assert "uncertainty: 0.42" in _bar(viewer)
    assert "prediction: body" in _bar(viewer)
    assert "changed: now body" in _bar(viewer)
    _point(viewer, (0.0, 0.0, 0.0))
    assert "clues (body): 0.0" in _bar(viewer)
    assert "changed: unchanged" in _bar(viewer)
    live.layer("prediction").visible = False
    _point(viewer, PLACE)
    assert "prediction" not in _bar(viewer)


def test_an_active_live_image_tells_its_value_and_not_the_stored_number(
    viewer: Any, live: LiveLayers, hover: Hover
) -> None:
    _show(live, {"clues": -2.0})
    viewer.layers.selection.active = live.layer("clues")
    _point(viewer, PLACE)
    stored = int(live.layer("clues").data[2, 3, 5])
    assert "clues (body): -2.0" in _bar(viewer)
    assert f": {stored}" not in _bar(viewer)


def test_labels_of_the_volume_and_anchors_tell_their_class(
    viewer: Any, live: LiveLayers, hover: Hover
) -> None:
    labels = np.zeros(GRID.shape, np.uint8)
    labels[2, 3, 5] = 1
    features = {"index": [0, 1], "class": ["background", "body"]}
    layer = viewer.add_labels(labels, features=features, affine=np.diag([2.0, 1, 1, 1]))
    layer.metadata.update(tag("labels", volume="a"))
    _show(live, {}, AnchorRecord(step=1, points=((1, 2, 3, 5),)))
    viewer.layers.selection.clear()
    viewer.layers.selection.add(layer)
    _point(viewer, PLACE)
    assert "labels: body" in _bar(viewer)
    assert "anchor: body" in _bar(viewer)


def test_strangers_and_their_messages_are_left_alone(viewer: Any, live: LiveLayers, hover: Hover) -> None:
    _show(live, {"prediction": 1})
    viewer.status = "Saved 3 files"
    assert viewer.status == "Saved 3 files"
    live.keep_only(frozenset())
    viewer.add_image(np.zeros(GRID.shape))
    _point(viewer, PLACE)
    assert "prediction" not in _bar(viewer)


def test_it_is_computed_in_3d_too_and_the_mouse_outside_tells_nothing(
    viewer: Any, live: LiveLayers, hover: Hover
) -> None:
    _show(live, {"prediction": 1, "clues": 1.0})
    direction = ViewDirection(viewer)
    viewer.dims.ndisplay = 3
    viewer.cursor.position = PLACE
    assert "clues" not in hover.told()
    viewer.mouse_over_canvas = False
    viewer.status = "Ready"
    assert viewer.status == "Ready"
    direction.close()


@pytest.mark.parametrize("with_volume", [True, False])
def test_live_layers_can_be_added_in_3d_before_the_mouse_has_moved(
    viewer: Any, live: LiveLayers, with_volume: bool
) -> None:
    """napari 0.9.2 raises `len() of unsized object` for any Labels layer with features."""
    if with_volume:
        viewer.add_image(np.zeros(GRID.shape))
    direction = ViewDirection(viewer)
    viewer.dims.ndisplay = 3
    assert viewer.cursor.position is not None
    _show(live, {"prediction": 1, "changed": 2, "clues": 1.0, "uncertainty": 0.5})
    viewer.layers.selection.active = live.layer("prediction")
    viewer.dims.ndisplay = 2
    viewer.dims.ndisplay = 3
    viewer.layers.selection.active = live.layer("changed")
    assert len(viewer.layers) == 4 + with_volume
    direction.close()


def _event(kind: str, dragging: bool = True) -> Any:
    event = SimpleNamespace(
        type=kind, position=(2.0, 3.0, 5.0), view_direction=None, dims_displayed=[1, 2], dims_point=[2, 0, 0],
        is_dragging=dragging, modifiers=(), button=1, handled=False, pos=np.array([5.0, 5.0]),
    )  # fmt: skip
    return ReadOnlyWrapper(event, exceptions=("handled",))


def _mouse(viewer: Any, kind: str, dragging: bool = True) -> None:
    call = {"press": mouse_press_callbacks, "move": mouse_move_callbacks, "release": mouse_release_callbacks}[
        kind
    ]
    for target in (viewer, viewer.layers.selection.active):
        call(target, _event(f"mouse_{kind}", dragging))


@pytest.mark.parametrize("mode", ["paint", "erase", "fill"])
def test_a_drag_in_a_painting_mode_is_a_stroke_from_press_to_release(viewer: Any, mode: str) -> None:
    strokes = Strokes(viewer)
    layer = viewer.add_labels(np.zeros(GRID.shape, np.uint8))
    layer.selected_label = 1
    layer.mode = mode
    seen = []
    for kind in ("press", "move", "move", "release"):
        _mouse(viewer, kind)
        seen.append(strokes.active)
    assert seen == [True, True, True, False]
    assert layer.data.any() == (mode != "erase"), "napari's own brush goes on working"
    strokes.close()
    _mouse(viewer, "press")
    assert not strokes.active
    _mouse(viewer, "release")


def test_other_drags_are_no_strokes_and_a_lost_release_ends_one(viewer: Any) -> None:
    strokes = Strokes(viewer)
    layer = viewer.add_labels(np.zeros(GRID.shape, np.uint8))
    layer.mode = "pan_zoom"
    _mouse(viewer, "press")
    assert not strokes.active
    _mouse(viewer, "release")
    layer.mode = "paint"
    _mouse(viewer, "press")
    assert strokes.active
    _mouse(viewer, "move", dragging=False)
    assert not strokes.active
    strokes.close()


def test_anchors_are_seen_in_their_slice_and_in_no_other(viewer: Any, live: LiveLayers) -> None:
    viewer.add_image(np.zeros(GRID.shape, np.uint8), **placement(GRID))
    points = ((1, 2, 3, 5), (0, 2, 4, 5), (1, 0, 1, 1))
    for step in (1, 2):
        _show(live, {"clues": 1.0}, AnchorRecord(step=step, points=points))
        for index, count in ((0, 1), (1, 0), (2, 2)):
            viewer.dims.set_current_step(0, index)
            assert len(live.layer("anchors")._view_data) == count


def test_the_status_bar_outlives_a_napari_without_the_direction_of_view(
    viewer: Any, live: LiveLayers
) -> None:
    """Its name is private to napari: without it 3D tells nothing, and 2D goes on."""
    _show(live, {"prediction": 1})
    viewer.dims.set_point(0, PLACE[0])
    cursor = SimpleNamespace(position=PLACE)
    for displayed, told in (((1, 2), "prediction: body"), ((0, 1, 2), "")):
        stranger = SimpleNamespace(
            cursor=cursor,
            dims=SimpleNamespace(
                displayed=displayed, ndisplay=len(displayed), ndim=3, events=viewer.dims.events
            ),
            layers=list(viewer.layers),
            events=viewer.events,
        )
        hover = Hover(stranger)
        assert told in hover.told()
        assert bool(hover.told()) is bool(told)
        hover.close()
        ViewDirection(stranger).close()
    assert not hasattr(cursor, "_view_direction")
