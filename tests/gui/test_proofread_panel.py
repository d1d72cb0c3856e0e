"""Predictions are accepted, taken back and exported from the panel, and what is shown follows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog

from napari_crln.gui.questions import Question
from napari_crln.volume.project import Project

pytestmark = pytest.mark.gui

NAME = "phantom_002"  # unlabelled


class Answer:
    """Answers each question alike, and keeps them."""

    def __init__(self, yes: bool) -> None:
        self.yes, self.asked = yes, list[Question]()

    def __call__(self, parent: object, question: Question) -> bool:
        self.asked.append(question)
        return self.yes


@pytest.fixture
def project(sample: Path, tmp_path: Path) -> Project:
    """The sample, in which one unlabelled volume has a prediction."""
    project = Project.open(shutil.copytree(sample, tmp_path / "p.crln"))
    volume = project.volume(NAME)
    volume.write_prediction(np.random.default_rng(0).integers(0, 4, volume.grid.shape, np.uint8))
    return project


@pytest.fixture
def opened(panel: Any, project: Project, wait: Callable[..., None]) -> Any:
    """The panel with that volume in the viewer."""
    panel.session.presenter.open_project(project.path)
    wait(lambda: panel.session.model.snapshot.project is not None)
    panel.session.presenter.show_volume(NAME)
    wait(lambda: panel.session.volumes.shown == NAME)
    return panel


def _idle(panel: Any) -> bool:
    return not panel.session.model.snapshot.busy


def test_the_slice_in_the_viewer_is_accepted_and_taken_back(
    opened: Any, project: Project, wait: Callable[..., None]
) -> None:
    section, session = opened.predict, opened.session
    session.viewer.dims.order = (1, 0, 2)
    session.viewer.dims.set_current_step(1, 9)
    section.ask = Answer(False)
    section.accept_slice_button.click()
    assert "slice 9 along H" in section.ask.asked[0].text
    assert _idle(opened)
    assert not project.volume(NAME).has_annotation

    section.ask = Answer(True)
    section.accept_slice_button.click()
    wait(lambda: session.model.snapshot.project.row(NAME).revision == 1)
    volume = project.volume(NAME)
    targets = volume.read_targets()
    np.testing.assert_array_equal(targets[:, 9], volume.read_prediction()[:, 9])
    assert (np.delete(targets, 9, axis=1) == -1).all()
    table = opened.project.table
    assert [table.item(2, column).text() for column in (0, 1, 2)] == [NAME, "labelled", "sparse"]
    wait(lambda: any(NAME in layer.name and "prediction" not in layer.name and layer.name != NAME
                     for layer in session.viewer.layers))  # fmt: skip

    section.fill_restore_menu()
    (action,) = section.restore_menu.actions()
    assert action.text() == "No annotation"
    action.trigger()
    wait(lambda: session.model.snapshot.project.row(NAME).role == "unlabelled")
    assert (volume.read_targets() == -1).all()
    section.fill_restore_menu()
    earlier, none = (each.text() for each in section.restore_menu.actions())
    assert earlier.startswith(f"Revision 1: sparse, in use until {time.strftime('%Y-')}")
    assert none == "No annotation"


def test_in_3d_there_is_no_slice_to_accept(opened: Any) -> None:
    opened.session.viewer.dims.ndisplay = 3
    opened.predict.ask = Answer(True)
    opened.predict.accept_slice_button.click()
    assert not opened.predict.ask.asked
    assert "3D" in opened.status.text()
    opened.session.viewer.dims.ndisplay = 2
    assert "3D" not in opened.status.text()


def test_roles_change_from_the_table_and_no_is_an_answer(
    opened: Any, project: Project, wait: Callable[..., None]
) -> None:
    session, section = opened.session, opened.project
    assert section.role.currentText() == "unlabelled"
    section.change_role("labelled")  # it has no labels
    assert section.role.currentText() == "unlabelled"
    wait(lambda: "no labels" in opened.status.text())
    session.presenter.show_volume("phantom_004")
    wait(lambda: session.volumes.shown == "phantom_004")
    labels = session.volumes.layer("labels")
    session.viewer.layers.selection.active = labels
    section.ask = Answer(False)
    section.change_role("labelled")
    assert "labels are trained on" in section.ask.asked[0].details
    assert section.role.currentText() == "test"
    section.ask = Answer(True)
    section.change_role("labelled")
    wait(lambda: session.model.snapshot.shown_row.role == "labelled")
    project.refresh()
    assert project.volume("phantom_004").role == "labelled"
    wait(lambda: section.table.item(4, 1).text() == "labelled")
    wait(lambda: session.annotation.layer("phantom_004") is not None)
    assert labels not in session.viewer.layers, "it shows what is no longer painted on it"
    section.change_role("test")
    wait(lambda: session.volumes.layer("labels") is not None)
    assert session.annotation.layer("phantom_004") is None


def test_a_prediction_that_is_gone_is_not_shown(
    opened: Any, project: Project, wait: Callable[..., None]
) -> None:
    assert opened.session.volumes.layer("prediction").visible
    shutil.rmtree(project.volume(NAME).path / "labels" / "prediction")
    opened.session.show_again()
    wait(lambda: opened.session.volumes.layer("prediction") is None)
    assert f"{NAME} prediction" not in opened.session.viewer.layers


def test_export_asks_for_a_folder_and_writes_what_is_predicted(
    opened: Any, tmp_path: Path, wait: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "out"))
    opened.predict.export_button.click()
    wait(lambda: " written to " in opened.status.text())
    rows = opened.session.model.snapshot.project.volumes
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert f"{NAME}.nii.gz" in written
    assert written == {f"{row.name}.nii.gz" for row in rows if row.predicted}
    assert not opened.predict.bar.isVisibleTo(opened.predict)

    (tmp_path / "out" / f"{NAME}.nii.gz").write_bytes(b"mine")
    opened.predict.ask = Answer(False)
    opened.predict.export_button.click()
    wait(lambda: "Nothing was exported" in opened.status.text())
    assert str(tmp_path / "out") in opened.predict.ask.asked[0].text
    assert (tmp_path / "out" / f"{NAME}.nii.gz").read_bytes() == b"mine"
    opened.predict.ask = Answer(True)
    opened.predict.export_button.click()
    wait(lambda: " written to " in opened.status.text())
    assert (tmp_path / "out" / f"{NAME}.nii.gz").read_bytes() != b"mine"
