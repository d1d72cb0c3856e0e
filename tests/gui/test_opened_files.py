"""A project opened by napari's *File › Open*, before or after the panel: the panel's layers take the place of the reader's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_crln.volume.project import Project

pytestmark = pytest.mark.gui

FIRST = "phantom_000"


@pytest.fixture
def project(sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample, tmp_path / "opened.crln"))


@pytest.fixture
def viewer(make_napari_viewer_proxy: Any) -> Any:
    return make_napari_viewer_proxy(show=True)


@pytest.fixture
def open_panel(viewer: Any, wait: Callable[..., None]) -> Any:
    """Dock the panel, and wait until it shows a volume; taken out in the end."""
    docks: list[Any] = []

    def make() -> Any:
        from napari_crln.gui.dock import crln_panel

        panel = crln_panel()
        docks.append(viewer.window.add_dock_widget(panel, name="crln", area="right"))
        wait(lambda: panel.session.volumes.shown)
        return panel

    yield make
    for dock in docks:
        viewer.window.remove_dock_widget(dock)


def annotations(viewer: Any) -> list[Any]:
    return [layer for layer in viewer.layers if layer.name.startswith(f"{FIRST} annotation")]


def test_the_panel_opens_what_is_open_and_nothing_is_there_twice(
    project: Path, viewer: Any, open_panel: Callable[[], Any]
) -> None:
    viewer.open(str(project), plugin="napari-crln")
    panel = open_panel()
    assert panel.session.model.snapshot.project.path.resolve() == project.resolve()
    assert [layer.name for layer in viewer.layers if layer.name.startswith(FIRST)] == [
        FIRST,
        f"{FIRST} annotation",
    ]


def test_what_was_painted_before_there_was_a_panel_is_saved(
    project: Path, viewer: Any, open_panel: Callable[[], Any], wait: Callable[..., None]
) -> None:
    viewer.open(str(project), plugin="napari-crln")
    (layer,) = annotations(viewer)
    layer.data_setitem((np.array([3]), np.array([4]), np.array([5])), np.array([2]))
    painted = layer.data.copy()
    panel = open_panel()
    wait(lambda: not panel.session.annotator.state(FIRST).pending)
    np.testing.assert_array_equal(Project.open(project).volume(FIRST).read_annotation(), painted)
    assert len(annotations(viewer)) == 1


def test_what_was_painted_on_an_older_annotation_stays_as_a_layer(
    project: Path, viewer: Any, open_panel: Callable[[], Any]
) -> None:
    viewer.open(str(project), plugin="napari-crln")
    (layer,) = annotations(viewer)
    layer.data_setitem((np.array([3]), np.array([4]), np.array([5])), np.array([2]))
    stored = Project.open(project).volume(FIRST)
    stored.write_annotation(stored.read_annotation(), "dense")  # by another process, meanwhile
    before = stored.read_annotation()
    open_panel()
    assert len(annotations(viewer)) == 2
    np.testing.assert_array_equal(stored.read_annotation(), before)


def test_a_copy_of_an_opened_annotation_is_the_users_own(
    project: Path, viewer: Any, open_panel: Callable[[], Any]
) -> None:
    viewer.open(str(project), plugin="napari-crln")
    viewer.layers.selection = set(annotations(viewer))
    from napari.layers._layer_actions import _duplicate_layer

    _duplicate_layer(viewer.layers)
    copy = next(layer for layer in viewer.layers if "copy" in layer.name)
    open_panel()
    assert copy in viewer.layers


def test_a_run_opened_while_the_panel_is_there_is_watched(
    project: Path, viewer: Any, wait: Callable[..., None]
) -> None:
    from napari_crln.config import RunConfig
    from napari_crln.gui.dock import crln_panel
    from napari_crln.run.folder import RunFolder

    older, newer = (RunFolder.create(project, RunConfig()).path for _ in range(2))
    panel = crln_panel()
    dock = viewer.window.add_dock_widget(panel, name="crln", area="right")
    viewer.open(str(older), plugin="napari-crln")
    wait(lambda: panel.session.model.snapshot.run.folder is not None and panel.session.volumes.shown)
    assert panel.session.model.snapshot.run.name == older.name
    viewer.window.remove_dock_widget(dock)
    assert newer.is_dir()


def test_a_project_opened_beside_another_one_is_let_alone(
    project: Path, sample: Path, viewer: Any, open_panel: Callable[[], Any], qtbot: Any
) -> None:
    viewer.open(str(project), plugin="napari-crln")
    panel = open_panel()
    viewer.open(str(sample), plugin="napari-crln")
    qtbot.wait(300)
    assert panel.session.model.snapshot.project.path.resolve() == project.resolve()
    assert len(annotations(viewer)) == 2
