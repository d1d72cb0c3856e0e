"""A project of the viewer's open layers: ask once what the labels mean, if the layers do not say, then make it.

It goes into the folder for projects, under the name that the images share, unless the user names another place: so
sample data takes two clicks from layers to training.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QFileDialog, QMessageBox, QWidget

from napari_crln.gui import obstacles
from napari_crln.gui.from_layers import create_project, layer_states, left_out, plan_volumes, renamed
from napari_crln.gui.layer_classes import CoverageProposal, propose_coverage
from napari_crln.gui.layer_data import Layer
from napari_crln.gui.layer_volume import LayerVolume
from napari_crln.gui.project_place import free_folder, name_for, project_folder, projects_folder
from napari_crln.gui.session import Session
from napari_crln.types import Coverage

_Plan = list[LayerVolume]


class NewProject:
    """The way from open layers to an open project; voxels are read and written in a thread.

    Attributes
    ----------
    home : where projects go
    """

    def __init__(self, parent: QWidget, session: Session) -> None:
        self._parent = parent
        self._session = session
        self.home = projects_folder()

    def begin(self, elsewhere: bool = False) -> None:
        """Look at the open layers in a thread, then ask what there is to ask.

        Parameters
        ----------
        elsewhere : ask where to put the project
        """
        if reason := obstacles.to_open(self._session.model.snapshot):
            return self._session.model.say(reason, "warning")
        layers = list(self._session.viewer.layers)
        look = partial(_look, layer_states(layers))
        self._session.model.update(busy="looking at the layers")
        return self._session.bridge.run(look, partial(self._looked, layers, elsewhere), self._failed)

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

    def ask_folder(self, proposed: Path) -> Path | None:
        """Where the project goes; None if they think better of it."""
        title = "New folder for the project"
        path, _ = QFileDialog.getSaveFileName(self._parent, title, str(proposed), "Project folders (*.crln)")
        return project_folder(path) if path else None

    def _looked(
        self, layers: list[Any], elsewhere: bool, found: tuple[_Plan, CoverageProposal | None, str]
    ) -> None:
        self._session.model.update(busy="")
        plan, proposal, left = found
        coverage = self._coverage(proposal)
        if coverage is None:
            return self._session.model.say("No project was made.")
        proposed = free_folder(self.home, name_for([volume.name for volume in plan]))
        folder = self.ask_folder(proposed) if elsewhere else proposed
        if folder is None:
            return self._session.model.say("No project was made.")
        background = proposal.background if proposal is not None and coverage == "sparse" else None

        def make() -> Path:
            folder.parent.mkdir(parents=True, exist_ok=True)
            return create_project(folder, plan, coverage, background=background).path

        return self._session.presenter.create_project(
            make,
            f"making {folder.name}",
            partial(self._opened, layers, folder, f"{renamed(plan)} {left}".strip()),
        )

    def _coverage(self, proposal: CoverageProposal | None) -> Coverage | None:
        if proposal is None:
            return "dense"  # of no labels at all
        return proposal.coverage if proposal.certain else self.ask_coverage(proposal)

    def _opened(self, layers: list[Any], folder: Path, remarks: str) -> None:
        """The project's own layers show the same: hide those that it was made of."""
        for layer in layers:
            if layer in self._session.viewer.layers and layer.visible:  # each change draws the scene anew
                layer.visible = False
        said = f"Made {folder}. Its layers take the place of yours, which are hidden. {remarks}"
        self._session.model.say(said.strip())

    def _failed(self, error: Exception) -> None:
        self._session.model.update(busy="")
        self._session.model.say(str(error), "error")


def _look(states: list[Layer]) -> tuple[_Plan, CoverageProposal | None, str]:
    plan = plan_volumes(states)
    return plan, propose_coverage(plan), left_out(states, plan)
