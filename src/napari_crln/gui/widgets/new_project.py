"""A project of the viewer's open layers: ask once what the labels mean and where to put it, then make it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

from napari_crln.errors import CrlnError
from napari_crln.gui.from_layers import create_project, plan_from_layers
from napari_crln.gui.layer_classes import CoverageProposal, propose_coverage
from napari_crln.gui.layer_volume import LayerVolume
from napari_crln.gui.session import Session
from napari_crln.types import Coverage

_Plan = list[LayerVolume]


class NewProject:
    """The way from open layers to an open project; voxels are read and written in a thread."""

    def __init__(self, parent: QWidget, session: Session) -> None:
        self._parent = parent
        self._session = session

    def begin(self) -> None:
        """Look at the open layers, and at their labels in a thread."""
        try:
            plan = plan_from_layers(self._session.viewer.layers)
        except CrlnError as error:
            return self._session.model.say(str(error), "error")
        look = partial(propose_coverage, plan)
        return self._session.bridge.run(look, partial(self._proposed, plan), self._failed)

    def ask_coverage(self, proposal: CoverageProposal) -> Coverage | None:
        """Dense or sparse, by the user; None if they think better of it."""
        box = QMessageBox(self._parent)
        box.setWindowTitle("New project from open layers")
        box.setText("Is every voxel of the labelled volumes annotated?")
        box.setInformativeText(f"It looks {proposal.coverage}: {proposal.reason}")
        dense = box.addButton("All: the rest is background", QMessageBox.ButtonRole.AcceptRole)
        sparse = box.addButton("Some: the rest is unknown", QMessageBox.ButtonRole.AcceptRole)
        box.addButton(QMessageBox.StandardButton.Cancel)
        box.setDefaultButton(dense if proposal.coverage == "dense" else sparse)
        box.exec()
        answers: dict[Any, Coverage] = {dense: "dense", sparse: "sparse"}
        return answers.get(box.clickedButton())

    def ask_folder(self) -> Path | None:
        """Where the project goes; None if they think better of it."""
        proposed = str(Path.home() / "project.crln")
        title = "New folder for the project"
        path, _ = QFileDialog.getSaveFileName(self._parent, title, proposed, "Project folders (*.crln)")
        return Path(path).with_suffix(".crln") if path else None

    def _proposed(self, plan: _Plan, proposal: CoverageProposal | None) -> None:
        coverage = "dense" if proposal is None else self.ask_coverage(proposal)
        folder = None if coverage is None else self.ask_folder()
        if folder is None or coverage is None:
            return
        background = proposal.background if proposal is not None and coverage == "sparse" else None

        def make() -> Path:
            return create_project(folder, plan, coverage, background=background).path

        self._session.presenter.create_project(make, f"making {folder.name}")

    def _failed(self, error: Exception) -> None:
        self._session.model.say(str(error), "error")
