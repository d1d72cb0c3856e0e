"""The commands in napari's menus, in a real viewer: they are where a user finds them, and they work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from npe2 import PluginManager, PluginManifest
from qtpy.QtWidgets import QFileDialog, QMenu

from napari_crln.gui.menu import DOCK, open_panel

pytestmark = pytest.mark.gui


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Iterator[Any]:
    """A viewer whose plugin manager knows the manifest, installed or not; it stays known, as napari's actions do."""
    manifest = PluginManifest.from_file(Path(str(resources.files("napari_crln") / "napari.yaml")))
    manager = PluginManager.instance()
    viewer = make_napari_viewer(show=True)
    if manifest.name not in manager:
        manager.register(manifest)
    yield viewer
    for name in [name for name in viewer.window.dock_widgets if name == DOCK]:
        viewer.window.remove_dock_widget(viewer.window.dock_widgets[name].parent())


def _entries(menu: QMenu) -> dict[str, Any]:
    """Actions of a menu by their text, those of submenus below `Submenu/`, filled as if it were opened."""
    menu.aboutToShow.emit()
    found: dict[str, Any] = {}
    for action in menu.actions():
        text = action.text().replace("&", "")
        found[text] = action
        if action.menu() is not None:
            found |= {f"{text}/{below}": each for below, each in _entries(action.menu()).items()}
    return found


def _segment(viewer: Any) -> dict[str, Any]:
    entries = _entries(viewer.window.layers_menu)
    ours = {
        text.rpartition("/")[2].removesuffix(" (CRLN segmentation)"): action
        for text, action in entries.items()
        if "CRLN segmentation/" in text
    }
    assert ours, sorted(entries)
    return ours


def test_the_commands_are_in_the_segment_menu_and_the_panel_in_the_plugins_menu(viewer: Any) -> None:
    assert {
        "CRLN: train and segment",
        "New project from open layers",
        "Open project…",
        "Watch a run…",
    } <= set(_segment(viewer))
    assert DOCK in _entries(viewer.window.plugins_menu)


def test_both_ways_open_one_and_the_same_panel(viewer: Any) -> None:
    _entries(viewer.window.plugins_menu)[DOCK].trigger()
    assert open_panel() is viewer.window.dock_widgets[DOCK]
    assert [name for name in viewer.window.dock_widgets if "CRLN" in name] == [DOCK]


def test_open_project_and_watch_a_run_ask_and_open(
    viewer: Any, sample: Path, wait: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(sample))
    _segment(viewer)["Open project…"].trigger()
    panel = viewer.window.dock_widgets[DOCK]
    wait(lambda: panel.session.model.snapshot.project is not None)
    assert panel.session.model.snapshot.project.path == sample


def test_a_run_is_watched_by_its_folder(
    viewer: Any, sample: Path, wait: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_crln.config import build
    from napari_crln.run.folder import RunFolder

    first, _ = RunFolder.create(sample, build({"iterations": 3})), RunFolder.create(sample, build({}))
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(first.path))
    _segment(viewer)["Watch a run…"].trigger()
    panel = viewer.window.dock_widgets[DOCK]
    wait(lambda: panel.session.model.snapshot.run.folder is not None)
    assert panel.session.model.snapshot.run.folder == first.path
    assert panel.session.model.snapshot.project.path == sample


def test_new_project_without_layers_says_what_is_missing(viewer: Any, wait: Callable[..., None]) -> None:
    _segment(viewer)["New project from open layers"].trigger()
    model = viewer.window.dock_widgets[DOCK].session.model
    wait(lambda: model.snapshot.message.level == "error")
    assert "no image layer" in model.snapshot.message.text
    assert not model.snapshot.busy
