"""The panel's widgets: what they say, what users can reach, and that closing leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QLineEdit,
    QWidget,
)

pytestmark = pytest.mark.gui

_CONTROLS = (QAbstractButton, QComboBox, QAbstractSpinBox, QLineEdit, QAbstractSlider)


def _controls(panel: Any) -> list[QWidget]:
    """Ours: not the parts that Qt builds its own widgets from."""
    own = (
        panel.project, panel.train, panel.curves, panel.live, panel.annotate, panel.suggest, panel.predict,
    )  # fmt: skip
    found = [w for section in own for kind in _CONTROLS for w in section.findChildren(kind)]
    inner = (QAbstractSpinBox, QComboBox, QAbstractSlider)
    return [w for w in found if not isinstance(w.parent(), inner) and not w.objectName().startswith("qt_")]


def test_every_control_has_a_tooltip(panel: Any) -> None:
    scrolling = ("QScrollBar", "QTableCornerButton", "QToolButton")  # the last: of tabs that do not fit
    mute = [
        w for w in _controls(panel) if not _tip(w) and type(w).__name__ not in scrolling
    ]  # fmt: skip
    assert not [(type(w).__name__, w.objectName()) for w in mute]


def _tip(widget: QWidget) -> str:
    """Its tooltip, or that of what it is a part of."""
    while widget is not None and not widget.toolTip() and widget.parent() is not None:
        widget = widget.parent()
    return "" if widget is None else str(widget.toolTip())


def test_opening_does_not_import_torch() -> None:
    code = "import sys; import napari_crln.gui.widgets.panel; sys.exit('torch' in sys.modules)"
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", code], env={**__import__("os").environ, "PYTHONPATH": source}, check=False
    )
    assert done.returncode == 0


def test_arrow_keys_in_the_table_change_the_volume(
    panel: Any, sample: Path, wait: Callable[..., None]
) -> None:
    model = panel.session.model
    panel.session.presenter.open_project(sample)
    wait(lambda: panel.session.volumes.shown == "phantom_000")
    panel.project.table.setCurrentCell(1, 0)
    wait(lambda: panel.session.volumes.shown == "phantom_001")
    assert model.snapshot.shown == "phantom_001"
    layers = {layer.name: layer.visible for layer in panel.session.viewer.layers}
    assert layers["phantom_001"]
    assert not layers["phantom_000"]


def test_position_is_the_slice_of_the_volume(panel: Any, sample: Path, wait: Callable[..., None]) -> None:
    panel.session.presenter.open_project(sample)
    wait(lambda: panel.session.volumes.shown)
    viewer = panel.session.viewer
    viewer.dims.set_current_step(0, 5)
    assert panel.session.volumes.position() == (0, 5)
    viewer.dims.order = (2, 0, 1)
    viewer.dims.set_current_step(2, 7)
    assert panel.session.volumes.position() == (2, 7)


def test_new_from_open_layers_makes_a_project_that_can_be_trained(
    panel: Any, tmp_path: Path, wait: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_crln.gui.widgets.new_project import NewProject

    viewer = panel.session.viewer
    random = np.random.default_rng(0)
    for name in ("a", "b (new)"):
        viewer.add_image(random.normal(size=(16, 16, 16)), name=name, units=("mm",) * 3)
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[4:8, 4:8, 4:8] = 1
    viewer.add_labels(labels, name="a labels", units=("mm",) * 3)
    monkeypatch.setattr(NewProject, "ask_coverage", lambda self, proposal: "dense")
    panel.project.new_project.home = tmp_path
    panel.project.layers_button.click()
    wait(lambda: panel.session.model.snapshot.project is not None)
    assert [row.role for row in panel.session.model.snapshot.project.volumes] == ["labelled", "unlabelled"]
    assert panel.train.train_button.isEnabled()
    assert panel.session.model.snapshot.project.path.parent == tmp_path
    wait(lambda: "'b (new)' is the volume 'b _new_'" in panel.status.text())
    wait(lambda: panel.session.annotation.layer("a") is not None)

    viewer.add_image(
        random.normal(size=(16, 16, 16)), name="c", units=("mm",) * 3
    )  # and once more, with this
    first = panel.session.model.snapshot.project.path
    panel.project.layers_button.click()
    wait(lambda: panel.session.model.snapshot.project.path != first or "both fit" in panel.status.text())
    rows = panel.session.model.snapshot.project.volumes
    assert [(row.name, row.role) for row in rows] == [
        ("a", "labelled"), ("b _new_", "unlabelled"), ("c", "unlabelled"),
    ]  # fmt: skip
    wait(lambda: "show the same images: 'a annotation'." in panel.status.text())


def test_the_loop_is_not_blocked_by_slow_work(panel: Any, qtbot: Any) -> None:
    beats: list[float] = []
    panel.session.bridge.every(0.01, lambda: beats.append(time.perf_counter()))
    done: list[None] = []
    panel.session.bridge.run(lambda: time.sleep(0.5), done.append, lambda error: None)
    qtbot.waitUntil(lambda: bool(done), timeout=10_000)
    assert len(beats) > 5


def test_the_command_is_copied_and_a_wrong_setting_told_instead(
    panel: Any, sample: Path, wait: Callable[..., None]
) -> None:
    panel.session.presenter.open_project(sample)
    wait(lambda: panel.session.model.snapshot.project is not None)
    clipboard = QApplication.clipboard()
    panel.train.copy_button.click()
    assert clipboard.text().startswith("napari-crln train ")
    assert " --preset automatic " in clipboard.text()
    clipboard.setText("mine")
    panel.session.presenter.set_form(settings="batches.labeled=1")
    panel.train.copy_button.click()
    assert clipboard.text() == "mine"
    assert panel.session.model.snapshot.message.level == "error"
    assert "labeled" in panel.session.model.snapshot.message.text
