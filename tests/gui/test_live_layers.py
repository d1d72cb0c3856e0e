"""Live layers against what users do to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_crln.gui.live_layers import LiveLayers
from napari_crln.gui.preview_feed import Frame, MapPicture
from napari_crln.previews import Quantisation
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
