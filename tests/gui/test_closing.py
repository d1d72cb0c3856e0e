"""Viewer and panel come and go while a run trains: a real child process on the CPU."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_crln.events import Ended, Event, Stop
from napari_crln.gui.following import is_trained
from napari_crln.gui.window import open_window
from napari_crln.run.folder import RunFolder
from napari_crln.run.watch import follow, send

pytestmark = [pytest.mark.gui, pytest.mark.slow, pytest.mark.timeout(300)]

TINY = (
    "network.base_filters=4; network.dropout=false; batches.labelled=1; batches.unlabelled=1; "
    "method.rectification.after=2; method.dim.prototypes=2; method.dim.width=8; engine.threads=1"
)


@pytest.fixture
def open_panel(make_napari_viewer: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[Any, Any]]:
    """Open a viewer with the panel docked."""
    source = str(Path(__file__).parents[2] / "src")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])]))

    def make() -> tuple[Any, Any]:
        from napari_crln.gui.widgets.panel import CrlnPanel

        viewer = make_napari_viewer(show=True)
        panel = CrlnPanel(viewer)
        viewer.window.add_dock_widget(panel, name="crln", area="right")
        return viewer, panel

    return make


def _train(panel: Any, project: Path, wait: Callable[..., None]) -> Path:
    panel.session.presenter.open_project(project)
    wait(panel.train.train_button.isEnabled)
    panel.session.presenter.set_form(iterations=100_000, device="cpu", settings=TINY)
    model = panel.session.model
    before = model.snapshot.run.folder  # a run that another test has left in the project
    panel.train.train_button.click()
    wait(lambda: model.snapshot.run.folder != before and model.snapshot.run.progress.step >= 1, 120)
    folder = model.snapshot.run.folder
    assert folder is not None
    return Path(folder)


def _end(folder: Path, wait: Callable[..., None]) -> Ended:
    wait(lambda: not is_trained(folder), 60)
    last: Event | None = None
    for event in follow(folder):
        if event is None:
            break
        last = event
    assert isinstance(last, Ended)
    return last


def test_the_run_outlives_the_viewer_and_is_found_again(
    open_panel: Callable[[], tuple[Any, Any]], sample: Path, wait: Callable[..., None]
) -> None:
    viewer, panel = open_panel()
    folder = _train(panel, sample, wait)
    step = panel.session.model.snapshot.run.progress.step
    viewer.close()
    assert is_trained(folder)

    _, again = open_panel()
    again.session.presenter.open_project(sample)
    model = again.session.model
    wait(lambda: model.snapshot.run.folder == folder and model.snapshot.run.progress.step > step)
    assert model.snapshot.run.state == "training"
    again.train.stop_button.click()
    wait(lambda: model.snapshot.run.state == "stopped")
    assert _end(folder, wait).reason == "stopped"


def test_the_run_ends_with_the_viewer_if_the_user_chose_so(
    open_panel: Callable[[], tuple[Any, Any]], sample: Path, wait: Callable[..., None]
) -> None:
    viewer, panel = open_panel()
    folder = _train(panel, sample, wait)
    panel.session.model.update(keep_running=False)
    viewer.close()
    ended = _end(folder, wait)
    assert ended.reason == "stopped"
    assert list(RunFolder.open(folder).checkpoints.glob("step-*")), "no checkpoint was kept"


def test_the_panel_closed_alone_leaves_the_viewer_and_the_run(
    open_panel: Callable[[], tuple[Any, Any]], sample: Path, wait: Callable[..., None]
) -> None:
    viewer, panel = open_panel()
    folder = _train(panel, sample, wait)
    names = [layer.name for layer in viewer.layers]
    viewer.window.remove_dock_widget(panel.parent())
    assert [layer.name for layer in viewer.layers] == names
    assert is_trained(folder)
    send(folder, Stop())
    assert _end(folder, wait).reason == "stopped"


def test_a_panel_that_is_opened_again_takes_the_place_of_the_one_before(
    open_panel: Callable[[], tuple[Any, Any]], sample: Path, wait: Callable[..., None]
) -> None:
    from napari_crln.gui.widgets.panel import CrlnPanel

    viewer, panel = open_panel()
    folder = _train(panel, sample, wait)
    session = panel.session
    wait(lambda: session.live._live.keys() == session.model.snapshot.live.shown)
    shown = session.model.snapshot.shown
    names = sorted(layer.name for layer in viewer.layers)
    annotation, prediction = session.annotation.layer(shown), session.live.layer("prediction")
    assert annotation is not None
    viewer.window.remove_dock_widget(panel.parent())
    assert not annotation.editable, "what is painted now would not be saved"
    prediction.data_setitem((np.array([0]), np.array([0]), np.array([0])), 1)  # the user's own from now on

    copy = viewer.add_layer(
        type(annotation)(*annotation.as_layer_data_tuple()[:1], metadata=annotation.metadata, name="mine")
    )

    again = CrlnPanel(viewer)
    viewer.window.add_dock_widget(again, name="crln", area="right")
    again.session.presenter.open_project(sample)
    wait(lambda: len(viewer.layers) == len(names) + 2)
    assert copy in viewer.layers
    assert prediction in viewer.layers
    assert annotation not in viewer.layers
    assert again.session.annotation.layer(again.session.model.snapshot.shown).editable
    assert sorted({layer.name.removesuffix(" [1]") for layer in viewer.layers if layer is not copy}) == names
    send(folder, Stop())
    assert _end(folder, wait).reason == "stopped"


def test_the_demos_window_trains_at_once(
    make_napari_viewer: Any,
    sample: Path,
    wait: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    source = str(Path(__file__).parents[2] / "src")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])]))
    fresh = tmp_path / "fresh.crln"
    shutil.copytree(sample, fresh, ignore=shutil.ignore_patterns("runs"))
    (fresh / "runs").mkdir()
    viewer = make_napari_viewer(show=True)
    panel = open_window(viewer, fresh, train=True)
    model = panel.session.model
    wait(lambda: model.snapshot.run.progress.step >= 1, 120)
    assert any(title.startswith("CRLN") for title in viewer.window.dock_widgets)
    panel.train.stop_button.click()
    wait(lambda: model.snapshot.run.state == "stopped")
