"""Painting in a real viewer: from the brush to the project, and to a run that trains."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.utils._test_utils import read_only_mouse_event
from napari.utils.interactions import mouse_move_callbacks, mouse_press_callbacks, mouse_release_callbacks

from napari_crln.config import RunConfig
from napari_crln.errors import ProjectError
from napari_crln.events import LabelsChanged, parse_command
from napari_crln.gui import annotation_saver, shown_volumes
from napari_crln.gui.layer_data import placement
from napari_crln.gui.layer_geometry import place
from napari_crln.gui.leftovers import take_away
from napari_crln.gui.preview_feed import Frame, MapPicture
from napari_crln.gui.run_view import Preview
from napari_crln.gui.slice_visit import bring_into_sight
from napari_crln.gui.suggestions import Place
from napari_crln.gui.tags import tag
from napari_crln.previews import Quantisation
from napari_crln.run.folder import RunFolder
from napari_crln.volume.geometry import Grid
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume

pytestmark = pytest.mark.gui

UNLABELLED, LABELLED, TEST = "phantom_002", "phantom_000", "phantom_004"


@pytest.fixture
def project(sample: Path, tmp_path: Path) -> Path:
    """A copy of the sample, to paint on."""
    return Path(shutil.copytree(sample, tmp_path / "painted.crln"))


class Desk:
    """The panel with a project open, and hands that paint."""

    def __init__(self, panel: Any, path: Path, wait: Callable[..., None]) -> None:
        self.panel, self.session, self.path, self.wait = panel, panel.session, path, wait
        self.viewer = panel.session.viewer
        self.session.presenter.open_project(path)
        wait(lambda: self.session.volumes.shown)

    def volume(self, name: str = UNLABELLED) -> Volume:
        return Project.open(self.path).volumes[name]

    def show(self, name: str) -> Any:
        self.session.presenter.show_volume(name)
        self.wait(lambda: self.session.volumes.shown == name)
        return self.session.annotation.layer(name)

    def stroke(self, layer: Any, plane: int, value: int = 2) -> None:
        """Press, move and release the brush, as napari hears of it."""
        self.session.ready_to_paint(self.session.volumes.shown)
        self.viewer.dims.set_current_step(0, plane)
        layer.selected_label, layer.brush_size = value, 4
        position = [(plane, 8 + k, 10) for k in range(0, 9, 2)]
        world = [tuple(layer.data_to_world(p)) for p in position]
        steps = {"mouse_press": mouse_press_callbacks, "mouse_move": mouse_move_callbacks,
                 "mouse_release": mouse_release_callbacks}  # fmt: skip
        kinds = ["mouse_press", *["mouse_move"] * 3, "mouse_release"]
        for kind, where in zip(kinds, world, strict=True):
            event = read_only_mouse_event(
                type=kind, position=where, view_direction=[1, 0, 0], dims_displayed=[1, 2],
                button=1, is_dragging=kind == "mouse_move",
            )  # fmt: skip
            steps[kind](layer, event)

    def volumes_image(self) -> Any:
        return self.session.volumes.layer("image")

    def saved(self, name: str = UNLABELLED) -> None:
        self.wait(lambda: not self.session.annotator.state(name).pending)


@pytest.fixture
def desk(panel: Any, project: Path, wait: Callable[..., None]) -> Desk:
    return Desk(panel, project, wait)


def test_layers_that_may_be_painted_on_and_those_that_may_not(desk: Desk) -> None:
    layer = desk.show(LABELLED)
    assert layer.editable
    assert layer.name == f"{LABELLED} annotation"
    np.testing.assert_array_equal(layer.data, desk.volume(LABELLED).read_annotation())
    assert list(layer.features["class"])[:2] == ["not annotated", "background"]
    assert not layer.multiscale
    assert desk.show(UNLABELLED).data.max() == 0
    assert not layer.visible, "of another volume"
    assert desk.show(TEST) is None
    assert all(not each.editable for each in desk.viewer.layers if each.name == f"{TEST} labels")
    desk.panel.annotate.draw(desk.session.model.snapshot, None)
    assert not desk.panel.annotate.complete.isEnabled()
    assert "measure" in desk.panel.annotate.complete.toolTip()


def test_a_stroke_is_saved_and_the_table_follows(desk: Desk) -> None:
    layer = desk.show(UNLABELLED)
    array = layer.data
    desk.stroke(layer, 5)
    assert (layer.data[5] == 2).any()
    desk.saved()
    np.testing.assert_array_equal(desk.volume().read_annotation(), layer.data)
    assert layer.data is array, "the array that is painted on is never swapped"
    desk.wait(lambda: desk.session.model.snapshot.project.row(UNLABELLED).role == "labelled")
    assert desk.session.model.snapshot.project.row(UNLABELLED).coverage == "sparse"
    assert desk.panel.annotate.saving.text() == "Saved, revision 1."
    assert "revision 1" in desk.session.model.snapshot.message.text


def test_an_undo_after_it_was_saved_is_saved_too(desk: Desk) -> None:
    layer = desk.show(UNLABELLED)
    desk.stroke(layer, 5)
    desk.saved()
    layer.undo()
    assert layer.data.max() == 0
    desk.wait(lambda: desk.volume().revision == 2)
    assert desk.volume().annotated == 0
    desk.wait(lambda: desk.session.model.snapshot.project.row(UNLABELLED).role == "unlabelled")
    layer.redo()
    desk.wait(lambda: desk.volume().revision == 3)
    np.testing.assert_array_equal(desk.volume().read_annotation(), layer.data)


def test_strokes_that_wait_are_saved_on_a_switch_and_on_closing(desk: Desk) -> None:
    layer = desk.show(UNLABELLED)
    desk.stroke(layer, 5)
    desk.show(LABELLED)
    desk.wait(lambda: desk.volume().has_annotation)
    assert desk.show(UNLABELLED) is layer, "with its undo history"
    desk.stroke(layer, 6)
    desk.session.close()
    np.testing.assert_array_equal(desk.volume().read_annotation(), layer.data)
    assert layer in desk.viewer.layers, "a layer is left to the user"


@pytest.mark.parametrize("fails", [False, True])
def test_what_could_not_be_saved_on_closing_stays_in_the_viewer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    layer = desk.show(UNLABELLED)

    def refuse(*_: Any, **__: Any) -> Any:
        raise ProjectError("no room", "a save needs room", "Make room", desk.path)

    if fails:
        monkeypatch.setattr(annotation_saver, "save_region", refuse)
    desk.stroke(layer, 5)
    painted = layer.data.copy()
    desk.session.close()
    assert layer.editable is fails
    monkeypatch.undo()
    take_away(desk.viewer)
    assert (layer in desk.viewer.layers) is fails
    assert np.array_equal(layer.data, painted)


def test_what_could_not_be_saved_stays_when_another_project_is_opened(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, sample: Path
) -> None:
    def refuse(*_: Any) -> Any:
        raise ProjectError("held by process 7", "one process", "Wait")

    monkeypatch.setattr(annotation_saver, "holding", refuse)
    layer = desk.show(UNLABELLED)
    desk.stroke(layer, 5)
    painted = layer.data.copy()
    desk.session.presenter.open_project(sample)
    desk.wait(lambda: desk.session.model.snapshot.project.path == sample)
    (kept,) = (each for each in desk.viewer.layers if "not saved" in each.name)
    np.testing.assert_array_equal(kept.data, painted)
    np.testing.assert_allclose(kept.affine.affine_matrix, layer.affine.affine_matrix)
    monkeypatch.undo()
    desk.show(UNLABELLED)
    kept.visible = True
    desk.stroke(kept, 6)
    assert Project.open(sample).volume(UNLABELLED).revision == 0, "of another project, and nobody's"


def test_layers_of_volumes_that_were_not_shown_for_long_make_room(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_volumes, "MOST", 2)
    layer = desk.show(LABELLED)
    desk.stroke(layer, 5, 3)
    desk.show(UNLABELLED)
    assert layer in desk.viewer.layers, "the one before stays"
    desk.show(TEST)
    assert not [each for each in desk.viewer.layers if each.name.startswith(LABELLED)]
    assert (desk.volume(LABELLED).read_annotation()[5] == 3).any(), "saved before"
    again = desk.show(LABELLED)
    np.testing.assert_array_equal(again.data, layer.data)
    desk.volumes_image().name = "mine"
    desk.show(UNLABELLED)
    desk.show(TEST)
    assert "mine" in desk.viewer.layers, "renamed: not taken away"


def test_a_deleted_layer_comes_back_by_the_brush_and_by_a_click_on_its_volume(desk: Desk) -> None:
    desk.viewer.layers.remove(desk.show(UNLABELLED))
    desk.panel.annotate.paint.click()
    desk.wait(lambda: desk.session.annotation.layer(UNLABELLED) is not None)
    desk.wait(lambda: str(desk.session.annotation.layer(UNLABELLED).mode) == "paint")
    desk.viewer.layers.remove(desk.session.volumes.layer("image"))
    table = desk.panel.project.table
    row = next(i for i in range(table.rowCount()) if table.item(i, 0).text() == UNLABELLED)
    table.cellClicked.emit(row, 0)
    desk.wait(lambda: desk.session.volumes.layer("image") is not None)


def test_images_lie_beneath_live_layers_and_these_beneath_the_annotation(desk: Desk) -> None:
    session = desk.session
    desk.show(LABELLED)
    grid = session.volumes.grids[LABELLED]
    maps = {"prediction": MapPicture(np.ones(grid.shape, np.uint8), Quantisation())}
    session.live.show(
        Frame(LABELLED, 1, 1, grid.shape, maps), grid, session.model.snapshot.project.classes, frozenset(maps)
    )
    live = session.live.layer("prediction")
    order = list(desk.viewer.layers)
    assert order.index(live) < order.index(session.annotation.layer(LABELLED))
    annotation = desk.show(UNLABELLED)
    order = list(desk.viewer.layers)
    image = session.volumes.layer("image")
    assert order.index(image) < order.index(live) < order.index(annotation)


def test_what_is_selected_goes_along_to_another_volume(desk: Desk) -> None:
    layers = desk.viewer.layers
    desk.show(LABELLED)
    layers.selection.active = desk.volumes_image()
    annotation = desk.show(UNLABELLED)
    assert layers.selection.active == desk.volumes_image(), "and not a hidden one"
    desk.session.ready_to_paint(UNLABELLED)
    annotation.mode, annotation.selected_label, annotation.brush_size = "erase", 3, 7
    other = desk.show(LABELLED)
    assert layers.selection.active == other, "who paints goes on painting"
    assert (str(other.mode), other.selected_label, other.brush_size) == ("erase", 3, 7)


def test_a_volume_that_lies_elsewhere_is_brought_into_sight(desk: Desk) -> None:
    desk.show(LABELLED)
    desk.viewer.dims.set_current_step(0, 11)
    desk.show(UNLABELLED)
    image, shape = desk.volumes_image(), desk.session.volumes.grids[UNLABELLED].shape
    assert desk.session.volumes.position() == (0, 11), "the same place: slice and view stay"
    far = np.eye(4)
    far[:3, 3] = (-900.0, -60.0, 40.0)
    image.affine = far @ np.asarray(image.affine.affine_matrix)
    bring_into_sight(desk.viewer, image, shape)
    assert desk.session.volumes.position() == (0, shape[0] // 2)
    centre = np.array(desk.viewer.scene.camera.center)[-2:]
    middle = np.asarray(image.data_to_world([(size - 1) / 2 for size in shape]))[-2:]
    np.testing.assert_allclose(centre, middle, atol=1.0)


def shown_slice(layer: Any) -> float:
    """The slice across D that napari draws of a layer."""
    return float(layer._slicing_state.data_slice.point[-3])


def beside(desk: Desk, kind: str) -> None:
    """A layer of somebody else's, which changes what the viewer's axes and their units are."""
    if kind == "micrometres":
        desk.viewer.add_image(np.zeros((60, 56, 56), np.uint8), scale=(1000,) * 3, units=("um",) * 3)
    elif kind == "time":
        desk.viewer.add_image(np.zeros((3, 32, 48, 48), np.uint8), name="of 4 axes")


@pytest.mark.parametrize("kind", ["nothing", "micrometres", "time"])
def test_the_slice_that_is_seen_is_the_one_that_is_acted_on_whatever_else_is_open(
    desk: Desk, kind: str
) -> None:
    layer = desk.show(UNLABELLED)
    beside(desk, kind)
    desk.session.go_to(Place(UNLABELLED, 0, 12))
    assert round(shown_slice(layer)) == 12
    assert desk.session.volumes.position() == (0, 12)
    desk.session.complete_slice()
    assert np.unique(np.argwhere(layer.data)[:, 0]).tolist() == [12]
    desk.session.go_to(Place(UNLABELLED, 2, 7))
    assert desk.session.volumes.position() == (2, 7)
    desk.viewer.dims.set_point(desk.viewer.dims.ndim - 1, -1e9)  # out of sight
    assert desk.show(LABELLED) is not None, "it has its layer to annotate on"


def test_slices_of_an_oblique_volume_are_seen_as_they_were_acquired(
    panel: Any, project: Path, wait: Callable[..., None]
) -> None:
    opened = Project.open(project)
    cos, sin = np.cos(np.radians(20)), np.sin(np.radians(20))
    affine = np.array([[1, 0, 0, 50], [0, cos, -3 * sin, -70], [0, sin, 3 * cos, 9], [0, 0, 0, 1.0]])
    image = opened.volumes[UNLABELLED].read_image()
    opened.add("tilted", image, Grid(image.shape, affine), "unlabelled")
    desk = Desk(panel, project, wait)
    layer = desk.show("tilted")
    for index in (0, 11, image.shape[0] - 1):
        desk.session.go_to(Place("tilted", 0, index))
        assert round(shown_slice(layer)) == index
        assert desk.session.volumes.position() == (0, index)
    desk.session.complete_slice()
    assert np.unique(np.argwhere(layer.data)[:, 0]).tolist() == [image.shape[0] - 1]
    low, high, _ = desk.viewer.dims.range[0]
    first, last = (layer.data_to_world((index, 0, 0))[0] for index in (0, image.shape[0] - 1))
    assert low <= first < last <= high, "the slider reaches every slice"
    data, state, _ = layer.as_layer_data_tuple()
    np.testing.assert_allclose(place(data, state, "tilted").affine, affine, err_msg="what is saved of it")


def test_a_deleted_layer_is_saved_and_comes_back(desk: Desk) -> None:
    layer = desk.show(UNLABELLED)
    desk.stroke(layer, 5)
    desk.viewer.layers.remove(layer)
    assert desk.volume().annotated > 0
    desk.show(LABELLED)
    again = desk.show(UNLABELLED)
    assert again is not layer
    np.testing.assert_array_equal(again.data, layer.data)


def test_a_slice_is_marked_complete_and_that_can_be_undone(desk: Desk) -> None:
    layer = desk.show(UNLABELLED)
    desk.stroke(layer, 5)
    painted = layer.data.copy()
    desk.viewer.dims.set_current_step(0, 5)
    desk.panel.annotate.complete.click()
    expected = painted.copy()
    expected[5][painted[5] == 0] = 1
    np.testing.assert_array_equal(layer.data, expected)
    desk.wait(lambda: desk.volume().has_annotation and (desk.volume().read_annotation() == expected).all())
    layer.undo()
    np.testing.assert_array_equal(layer.data, painted)


def test_correcting_begins_with_the_prediction_of_that_slice(desk: Desk) -> None:
    volume = desk.volume()
    prediction = np.random.default_rng(0).integers(0, 3, volume.grid.shape, dtype=np.uint8)
    volume.write_prediction(prediction)
    layer = desk.show(UNLABELLED)
    desk.panel.annotate.correct.setChecked(True)
    assert layer.mode == "paint"
    desk.stroke(layer, 5, value=3)
    stroke = layer.data[5] == 3
    assert stroke[8, 10]
    outside = ~stroke | (prediction[5] == 2)
    np.testing.assert_array_equal(layer.data[5][outside], prediction[5][outside] + 1)
    assert layer.data[[4, 6]].max() == 0, "only that slice"
    desk.saved()
    np.testing.assert_array_equal(desk.volume().read_annotation(), layer.data)
    assert desk.volume().coverage == "sparse"
    said = desk.panel.annotate.saving.text()
    assert "slice 5 began as the stored prediction" in said
    layer.undo()
    np.testing.assert_array_equal(layer.data[5], prediction[5] + 1)
    layer.undo()
    assert layer.data.max() == 0
    desk.panel.annotate.correct.setChecked(False)
    desk.stroke(layer, 7)
    assert (layer.data[7] == 0).any(), "a plain stroke"


def test_correcting_takes_what_is_seen_live_before_the_prediction(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.volume().write_prediction(np.ones(desk.volume().grid.shape, np.uint8))
    layer = desk.show(UNLABELLED)
    session, shape = desk.session, layer.data.shape
    place = placement(session.volumes.grids[UNLABELLED])
    folder = desk.path / "runs" / "a"
    facts = tag("preview", generation=2, volume=UNLABELLED, run=str(folder))
    live = desk.viewer.add_labels(np.full(shape, 2, np.uint8), name="live", metadata=facts, **place)
    monkeypatch.setattr(session.live, "layer", lambda key: live if key == "rectified" else None)
    run = replace(session.model.snapshot.run, folder=folder)
    slab = Preview(2, UNLABELLED, 3, region=((0, 4), (0, shape[1]), (0, shape[2])))
    desk.panel.annotate.correct.setChecked(True)

    def begun(plane: int, *previews: Preview) -> int:
        """The class that a slice begins as, far from the stroke."""
        session.model.update(run=replace(run, previews=previews))
        desk.stroke(layer, plane)
        return int(layer.data[plane, 0, 0]) - 1

    assert begun(3, slab) == 2, "as the live map has it"
    assert begun(9, slab) == 1, "the live map has nothing of this slice: the prediction"
    assert begun(10, Preview(1, UNLABELLED, 2), slab) == 2, "the slab lies over a whole map"
    assert begun(11, Preview(1, UNLABELLED, 2, kept=False), slab) == 1, "a whole map that may be gone"
    assert begun(12, Preview(3, UNLABELLED, 4)) == 1, "the layer does not show the newest yet"
    live.metadata["crln"]["volume"] = LABELLED
    assert begun(2, slab) == 1, "of another volume"
    live.metadata["crln"] |= {"volume": UNLABELLED, "run": str(folder.with_name("b"))}
    assert begun(0, slab) == 1, "of another run, whose generations are numbered alike"
    live.metadata["crln"]["run"] = str(folder)
    live.visible = False
    assert begun(1, slab) == 1, "what is hidden is not what one corrects"


def test_without_anything_to_correct_the_panel_says_so(desk: Desk) -> None:
    layer = desk.show(UNLABELLED)
    desk.panel.annotate.correct.setChecked(True)
    desk.stroke(layer, 5)
    assert "no pseudo-label" in desk.session.model.snapshot.message.text
    assert (layer.data[5] == 2).any()


def test_another_process_that_holds_the_annotation_is_named(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise ProjectError("held by process 7 on elsewhere since noon", "one process", "Wait")

    monkeypatch.setattr(annotation_saver, "holding", refuse)
    monkeypatch.setattr(annotation_saver, "RETRY_S", 0.2)
    layer = desk.show(UNLABELLED)
    desk.stroke(layer, 5)
    desk.wait(lambda: "process 7 on elsewhere" in desk.panel.annotate.saving.text())
    monkeypatch.undo()
    desk.wait(lambda: desk.panel.annotate.saving.text().startswith("Saved"))
    np.testing.assert_array_equal(desk.volume().read_annotation(), layer.data)


def test_an_annotation_that_was_replaced_makes_a_new_layer(desk: Desk) -> None:
    layer = desk.show(LABELLED)
    volume = desk.volume(LABELLED)
    volume.write_annotation(np.full(volume.grid.shape, 2, np.uint8), "dense")
    desk.session._load(desk.session.model.snapshot)
    desk.wait(lambda: desk.session.annotation.layer(LABELLED) is not layer)
    assert (desk.session.annotation.layer(LABELLED).data == 2).all()
    assert layer not in desk.viewer.layers


def test_the_layer_can_be_switched_off(desk: Desk) -> None:
    layer = desk.show(UNLABELLED)
    desk.panel.annotate.shown.setChecked(False)
    assert not layer.visible
    assert not desk.panel.annotate.paint.isEnabled()
    desk.panel.annotate.shown.setChecked(True)
    assert layer.visible
    desk.panel.annotate.paint.click()
    assert desk.viewer.layers.selection.active.name == layer.name
    assert layer.mode == "paint"
    section = desk.panel.annotate
    assert (section.why.text(), section.shown.isChecked()) == ("", True)
    desk.session.presenter.show_volume(TEST)
    assert section.why.text().startswith(f"{TEST} is a test volume")
    assert (section.shown.isChecked(), section.shown.isEnabled()) == (False, False)
    desk.session.presenter.show_volume(UNLABELLED)
    assert (section.shown.isChecked(), section.shown.isEnabled()) == (True, True)


def test_the_run_is_told_of_each_save(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.create(desk.path, RunConfig())
    view = desk.session.model.snapshot.run
    desk.session.model.update(run=replace(view, folder=run.path, state="training"))
    layer = desk.show(UNLABELLED)
    desk.stroke(layer, 5)
    inbox = run.path / "inbox"

    def commands() -> list[Any]:
        written = sorted(inbox.glob("[!.]*.json"))  # dot files are just being written
        return [parse_command(path.read_bytes()) for path in written]

    wanted = LabelsChanged(volume=UNLABELLED, revision=1)
    desk.wait(lambda: wanted in commands())
    taken = {UNLABELLED: (1, 812)}
    desk.session.model.update(run=replace(desk.session.model.snapshot.run, labels_taken=taken))
    assert desk.panel.annotate.saving.text() == "Saved, revision 1. Training has it since iteration 812."
    assert desk.panel.status.text() == f"{UNLABELLED}: training has revision 1 since iteration 812."
    desk.session.model.update(run=view)


def test_painting_does_not_hold_the_event_loop_up(desk: Desk, qtbot: Any) -> None:
    """A generous bound: what is measured is in benchmarks/annotation.py."""
    from qtpy.QtCore import QTimer

    layer = desk.show(UNLABELLED)
    beats = [time.perf_counter()]
    timer = QTimer()
    timer.setInterval(10)
    timer.timeout.connect(lambda: beats.append(time.perf_counter()))
    layer.data[5, 5:9, 5:9] = 2
    timer.start()
    desk.session.annotator.touch(UNLABELLED)
    desk.wait(lambda: desk.volume().has_annotation and not desk.session.annotator.state(UNLABELLED).pending)
    timer.stop()
    assert max(b - a for a, b in pairwise(beats)) < 0.5


def test_what_the_user_hides_of_a_volume_stays_hidden_when_it_is_read_anew(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is after a prediction, an accepted slice, or an annotation that was replaced."""
    layer = desk.show(LABELLED)
    image = desk.session.volumes.layer("image")
    layer.visible = image.visible = False
    read, loaded = [], desk.session._loaded
    monkeypatch.setattr(desk.session, "_loaded", lambda *given: (loaded(*given), read.append(given)))
    desk.session._labels_written()
    desk.wait(lambda: read)
    assert not layer.visible
    assert not image.visible
    desk.show(UNLABELLED)
    assert desk.show(LABELLED).visible, "another volume was chosen, and this one again"
