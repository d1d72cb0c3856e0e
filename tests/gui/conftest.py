"""What tests of the panel share. They are skipped where napari, pytest-qt or a display is missing.

Leaks fail: a thread, a top-level widget or a child process that outlives its test.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from napari_crln.run.processes import descendants
from napari_crln.volume.sample import make_sample_project

SHAPE = (16, 32, 32)
ROLES = ("labelled", "labelled", "unlabelled", "unlabelled", "test")


def _missing() -> str:
    absent = [name for name in ("napari", "pytestqt", "qtpy") if find_spec(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed: tox -e gui"
    shown = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return "" if shown or not sys.platform.startswith("linux") else "no display: run under xvfb-run"


_REASON = _missing()
collect_ignore_glob = ["test_*.py"] if _REASON else []
if not _REASON:
    os.environ.setdefault("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of tiny phantoms; tests only add runs and predictions."""
    return make_sample_project(tmp_path_factory.mktemp("gui") / "tiny.crln", SHAPE, ROLES, preset=None)


@pytest.fixture
def wait(qtbot: Any) -> Callable[..., None]:
    """Let events run until a condition holds."""

    def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
        qtbot.waitUntil(lambda: bool(condition()), timeout=round(seconds * 1000))

    return until


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Threads, windows and processes that were not there before must be gone after."""
    from qtpy.QtCore import QEvent
    from qtpy.QtWidgets import QApplication

    threads, children = set(threading.enumerate()), {pid for pid, _ in descendants(os.getpid())}
    yield
    app = QApplication.instance()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (_threads() - threads or _children() - children or _panels(app)):
        app.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        app.processEvents()
        time.sleep(0.02)
    assert not _children() - children, "a child process is left"
    assert not _threads() - threads, "a thread is left"
    assert not _panels(app), "a panel is left"


def _panels(app: Any) -> list[Any]:
    return [w for w in app.topLevelWidgets() if w.objectName() == "crln-panel"]


def _children() -> set[int]:
    return {pid for pid, _ in descendants(os.getpid())}


def _threads() -> set[threading.Thread]:
    """Python's, but for those that only wait for a pid (they end with it) and those of libraries' pools."""
    pools = ("ThreadPoolExecutor", "pydevd", "zarr_", "asyncio", "Dummy")
    return {t for t in threading.enumerate() if not t.name.startswith(pools)}


@pytest.fixture
def panel(make_napari_viewer_proxy: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The panel, docked in a viewer; in the end taken out as napari does when the dock's x is clicked."""
    from napari_crln.gui.dock import crln_panel

    source = str(Path(__file__).parents[2] / "src")  # for child processes, where the package is not installed
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])]))
    viewer = make_napari_viewer_proxy(show=True)
    panel = crln_panel()  # as napari does it
    dock = viewer.window.add_dock_widget(panel, name="crln", area="right")
    yield panel
    viewer.window.remove_dock_widget(dock)
