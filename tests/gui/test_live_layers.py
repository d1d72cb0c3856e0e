"""Live layers against what users do to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_crln.gui.live_layers import LiveLayers
from napari_crln.gui.preview_feed import Frame, MapPicture
from napari_crln.previews import AnchorRecord, Quantisation
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable

pytestmark = pytest.mark.gui

CLASSES = tuple(ClassTable.from_ids({"background": 0, "body": 1}))
GRID = Grid.from_spacing((4, 8, 8), (2.0, 1.0, 1.0))
KEYS = frozenset({"prediction", "uncertainty"})


class Stage:
    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer
        self.removed: list[str] = []
        self.edited: list[str] = []
        self.unhidden = 0
        self.live = LiveLayers(viewer, self.removed.append, self.edited.append, self._count)

    def _count(self) -> None:
        self.unhidden += 1

    def show(self, value: int, grid: Grid = GRID, keys: frozenset[str] = KEYS) -> None:
        stored = {key: MapPicture(np.full(grid.shape, value, np.uint8), Quantisation()) for key in KEYS}
        self.live.show(Frame("a", value + 1, value, grid.shape, stored), grid, CLASSES, keys)


@pytest.fixture
def stage(make_napari_viewer: Any) -> Stage:
    return Stage(make_napari_viewer())


def test_layers_are_made_once_and_then_updated(stage: Stage) -> None:
    stage.show(0)
    before = [id(layer) for layer in stage.viewer.layers]
    stage.show(1)
    assert [id(layer) for layer in stage.viewer.layers] == before
    assert {layer.name for layer in stage.viewer.layers} == {"crln: prediction", "crln: uncertainty"}
    assert all((layer.data == 1).all() for layer in stage.viewer.layers)
    assert stage.live.layer("prediction").metadata["crln"]["generation"] == 2


def test_only_ticked_maps_get_a_layer(stage: Stage) -> None:
    stage.show(0, keys=frozenset({"prediction"}))
    assert [layer.name for layer in stage.viewer.layers] == ["crln: prediction"]


def test_the_selection_stays_what_it_was(stage: Stage) -> None:
    mine = stage.viewer.add_image(np.zeros(GRID.shape))
    stage.viewer.layers.selection.active = mine
    stage.show(0)
    assert stage.viewer.layers.selection == {mine}
    assert stage.viewer.layers.selection.active is mine


def test_a_renamed_layer_goes_on_being_updated(stage: Stage) -> None:
    stage.show(0)
    stage.live.layer("prediction").name = "mine"
    stage.show(1)
    assert len(stage.viewer.layers) == 2
    assert (stage.viewer.layers["mine"].data == 1).all()


def test_a_deleted_layer_is_reported_and_one_taken_away_is_not(stage: Stage) -> None:
    stage.show(0)
    stage.viewer.layers.remove(stage.live.layer("prediction"))
    assert stage.removed == ["prediction"]
    stage.live.keep_only(frozenset())
    assert (stage.removed, len(stage.viewer.layers)) == (["prediction"], 0)


def test_a_painted_layer_is_never_overwritten_and_stays_the_users(stage: Stage) -> None:
    stage.show(0)
    painted = stage.live.layer("prediction")
    painted.data_setitem((np.array([1]), np.array([2]), np.array([3])), 1)
    painted.paint((1, 2, 2), 1)
    assert stage.edited == ["prediction"]
    before = painted.data.copy()
    stage.show(1)
    np.testing.assert_array_equal(painted.data, before)
    stage.live.keep_only(frozenset({"uncertainty"}))
    assert painted in stage.viewer.layers
    stage.show(1)
    assert stage.live.layer("prediction") is not painted


def test_hidden_layers_are_known_and_unhiding_asks_for_news(stage: Stage) -> None:
    stage.show(0)
    stage.live.layer("prediction").visible = False
    assert stage.live.hidden == {"prediction"}
    stage.live.layer("prediction").visible = True
    assert (stage.live.hidden, stage.unhidden) == (frozenset(), 2)


def test_another_volume_brings_its_shape_and_place(stage: Stage) -> None:
    stage.show(0)
    other = Grid.from_spacing((6, 4, 4), (3.0, 2.0, 2.0))
    stage.show(1, other)
    layer = stage.live.layer("prediction")
    assert layer.data.shape == other.shape
    np.testing.assert_allclose(np.diag(layer.affine.affine_matrix)[:3], other.spacing)


def test_closing_leaves_the_layers_and_hears_no_more(stage: Stage) -> None:
    stage.show(0)
    stage.live.close()
    stage.viewer.layers.clear()
    assert stage.removed == []


def test_parts_are_a_layer_each_and_together_the_whole(stage: Stage) -> None:
    stored = {key: MapPicture(np.ones(GRID.shape, np.uint8), Quantisation()) for key in KEYS}
    parts = stage.live.showing(Frame("a", 1, 1, GRID.shape, stored), GRID, CLASSES, KEYS)
    counts = [len(stage.viewer.layers) for _ in parts]
    assert counts == [1, 2]


def test_in_3d_a_layer_has_at_most_128_voxels_an_axis_at_the_same_place(stage: Stage) -> None:
    grid = Grid.from_spacing((3, 300, 129), (2.0, 1.0, 0.5))
    stage.show(0, grid)
    layer = stage.live.layer("prediction")
    whole = layer.extent.world
    assert layer.data.shape == grid.shape
    stage.viewer.dims.ndisplay = 3
    assert layer.data.shape == (3, 100, 65)
    assert layer.data.dtype == np.uint8
    np.testing.assert_allclose(layer.extent.world, whole, atol=1.5)
    np.testing.assert_allclose(layer.data_to_world((0, 0, 0)), (0, 1, 0))  # the middle of three rows
    stage.show(1, grid)
    assert layer.data.shape == (3, 100, 65)
    stage.viewer.dims.ndisplay = 2
    assert layer.data.shape == grid.shape
    np.testing.assert_allclose(layer.extent.world, whole)


def test_a_thinned_map_shows_voxels_of_the_map_where_they_are(stage: Stage) -> None:
    stored = np.random.default_rng(0).integers(0, 255, (2, 260, 130), np.uint8)
    grid = Grid.from_spacing(stored.shape, (2.0, 1.0, 0.5))
    stage.viewer.dims.ndisplay = 3
    pictures = {"uncertainty": MapPicture(stored, Quantisation())}
    stage.live.show(Frame("a", 1, 1, stored.shape, pictures), grid, CLASSES, KEYS)
    layer = stage.live.layer("uncertainty")
    for index in np.ndindex(layer.data.shape):
        d, h, w = (round(x / s) for x, s in zip(layer.data_to_world(index), grid.spacing, strict=True))
        assert layer.data[index] == stored[d, h, w]


def test_another_volume_of_the_same_shape_brings_its_place(stage: Stage) -> None:
    stage.show(0)
    other = Grid.from_spacing(GRID.shape, (5.0, 3.0, 3.0))
    stage.show(1, other)
    affine = stage.live.layer("prediction").affine.affine_matrix
    np.testing.assert_allclose(np.diag(affine)[:3], other.spacing)


def test_an_update_is_seen_though_napari_hears_of_no_new_data(stage: Stage) -> None:
    """The event is held back for speed: what is drawn, and what is under the mouse, must be the new values."""
    stage.show(0)
    layer = stage.live.layer("uncertainty")
    stage.show(7)
    assert (layer._slice.image.raw == 7).all()
    assert layer.get_value((1, 1, 1)) == 7


def test_outlines_of_rectified_come_and_go(stage: Stage) -> None:
    def show() -> None:
        pictures = {"rectified": MapPicture(np.ones(GRID.shape, np.uint8), Quantisation())}
        stage.live.show(Frame("a", 1, 1, GRID.shape, pictures), GRID, CLASSES, frozenset({"rectified"}))

    stage.live.outline(1)
    show()
    assert stage.live.layer("rectified").contour == 1
    with pytest.warns(UserWarning, match="Contours are not displayed"):
        stage.viewer.dims.ndisplay = 3
    show()  # and does not warn at each update
    assert stage.live.layer("rectified").contour == 0
    stage.viewer.dims.ndisplay = 2
    assert stage.live.layer("rectified").contour == 1
    stage.live.outline(0)
    assert stage.live.layer("rectified").contour == 0
    show()
    assert stage.live.layer("rectified").contour == 0


def test_maps_of_another_volume_vanish_until_its_own_come(stage: Stage) -> None:
    stage.show(1)
    other = Grid.from_spacing((6, 4, 4), (3.0, 2.0, 2.0))
    stage.live.on_volume("a", GRID)
    assert stage.live.layer("prediction").data.all()
    stage.live.on_volume("b", other)
    assert stage.live.layer("prediction").data.shape == other.shape
    assert not stage.live.layer("prediction").data.any()


def test_maps_of_another_run_vanish_also_on_hidden_layers_but_not_what_was_painted_on(stage: Stage) -> None:
    stage.show(3, keys=KEYS)
    prediction, uncertainty = (stage.live.layer(key) for key in ("prediction", "uncertainty"))
    uncertainty.visible = False
    maps = {"prediction": MapPicture(np.full(GRID.shape, 3, np.uint8), Quantisation())}
    stage.live.show(Frame("a", 9, 9, GRID.shape, maps, run=Path("runs/x")), GRID, CLASSES, KEYS)
    assert prediction.metadata["crln"]["run"] == str(Path("runs/x"))
    stage.live.on_run()
    assert not prediction.data.any()
    assert not uncertainty.data.any(), "the last frame had no map for it"
    assert not uncertainty.visible
    assert prediction.metadata["crln"]["run"] == ""
    assert {layer.metadata["crln"]["generation"] for layer in stage.viewer.layers} == {0}
    stage.show(3)
    prediction.paint((1, 2, 2), 1)
    stage.live.on_run()
    assert prediction.data.any()


def _anchors(stage: Stage, *points: tuple[int, int, int, int], step: int = 5) -> Any:
    record = AnchorRecord(step=step, points=points) if points else None
    frame = Frame("a", 1, 1, GRID.shape, {}, record)
    stage.live.show(frame, GRID, CLASSES, frozenset({"anchors"}))
    return stage.live.layer("anchors")


def test_anchors_are_points_in_the_colours_of_their_classes(stage: Stage) -> None:
    assert _anchors(stage) is None, "no layer for what does not exist"
    layer = _anchors(stage, (1, 2, 3, 4), (0, 0, 0, 0))
    np.testing.assert_array_equal(layer.data, [[2, 3, 4], [0, 0, 0]])
    np.testing.assert_allclose(layer.data_to_world((2, 3, 4)), (4, 3, 4))
    assert list(layer.features["class"]) == ["body", "background"]
    assert (layer.face_color[0] != layer.face_color[1]).any()
    assert layer.metadata["crln"]["anchors_step"] == 5
    assert stage.live.layer("anchors") is _anchors(stage, (1, 1, 1, 1), (1, 1, 1, 2), (0, 3, 3, 3), step=6)
    assert (len(layer.data), len(layer.features), layer.selected_data) == (3, 3, set())
    _anchors(stage)
    assert len(layer.data) == 0
    assert stage.edited == []


def test_anchors_that_the_user_moved_are_left_alone_and_deleted_ones_stay_deleted(stage: Stage) -> None:
    layer = _anchors(stage, (1, 2, 3, 4))
    layer.add((1, 1, 1))
    assert stage.edited == ["anchors"]
    _anchors(stage, (1, 0, 0, 0))
    assert len(layer.data) == 2
    stage.viewer.layers.remove(layer)
    assert stage.removed == ["anchors"]


def test_anchors_do_not_change_what_is_selected(stage: Stage) -> None:
    mine = stage.viewer.add_image(np.zeros(GRID.shape))
    _anchors(stage, (1, 2, 3, 4))
    assert stage.viewer.layers.selection.active is mine
