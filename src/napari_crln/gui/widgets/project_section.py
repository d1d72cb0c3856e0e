"""Project: open one, make the sample, and the table of its volumes."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QAbstractItemView, QFileDialog, QHeaderView, QTableWidget, QTableWidgetItem

from napari_crln.gui import obstacles
from napari_crln.gui.model import ProjectView, Snapshot
from napari_crln.gui.presenter import Presenter
from napari_crln.gui.widgets.new_project import NewProject
from napari_crln.gui.widgets.parts import Button, Hint, Section, elided

_COLUMNS = {
    "Volume": "Name of the volume; click to show it.",
    "Role": "What the volume is for: labelled and unlabelled ones are trained on, validation ones choose the best "
    "checkpoint, test ones are never opened by training.",
    "Labels": "dense: every voxel is annotated; sparse: some; – none.",
    "Dice": "Dice of the last validation, %, mean over the classes; only of validation volumes.",
}
_MOST_ROWS = 6


class ProjectSection(Section):
    """The first section."""

    def __init__(self, presenter: Presenter, new_project: NewProject) -> None:
        super().__init__()
        self._presenter = presenter
        self.open_button = Button("&Open project…", "Open a project folder (….crln).", self._open)
        self.sample_button = Button(
            "&Sample project…",
            "Make a project of synthetic organs in a new folder: ready to train.",
            self._sample,
        )
        self.layers_button = Button(
            "&New from open layers…",
            "Make a project of the images that are open, with the labels that belong to them; then press Train.",
            new_project.begin,
        )
        self.path = Hint("project path")
        self.table = QTableWidget(0, len(_COLUMNS))
        self._prepare_table()
        self.add_row(self.open_button, self.sample_button)
        self.rows.addWidget(self.layers_button)
        self.rows.addWidget(self.path)
        self.rows.addWidget(self.table)

    def draw(self, now: Snapshot, old: Snapshot | None) -> None:
        """Show a snapshot; `old` is what is drawn, None for nothing."""
        reason = obstacles.to_open(now)
        self.open_button.hinder(reason)
        self.sample_button.hinder(reason)
        self.layers_button.hinder(reason)
        if old is None or now.project != old.project:
            self._fill(now.project)
        if old is None or (now.shown, now.project) != (old.shown, old.project):
            self._mark(now)
        if old is None or now.run.volume_dice != old.run.volume_dice or now.project != old.project:
            self._fill_dice(now)

    def _prepare_table(self) -> None:
        table = self.table
        table.setObjectName("volumes")
        table.setHorizontalHeaderLabels(list(_COLUMNS))
        for index, tip in enumerate(_COLUMNS.values()):
            item = table.horizontalHeaderItem(index)
            item.setToolTip(tip)
            item.setTextAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header = table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        table.verticalHeader().hide()
        table.verticalHeader().setDefaultSectionSize(22)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setTabKeyNavigation(False)  # Tab leaves the table
        table.setShowGrid(False)
        table.setToolTip("Volumes of the project. Click one, or move with the arrow keys, to show it.")
        table.currentCellChanged.connect(self._chosen)
        table.hide()

    def _fill(self, project: ProjectView | None) -> None:
        rows = () if project is None else project.volumes
        with QSignalBlocker(self.table):
            self.table.setRowCount(len(rows))
            for index, row in enumerate(rows):
                for column, text in enumerate((row.name, row.role, row.coverage or "–", "")):
                    self.table.setItem(index, column, QTableWidgetItem(text))
                shape = " × ".join(map(str, row.shape))
                predicted = "; has a prediction" if row.predicted else ""
                self.table.item(index, 0).setToolTip(f"{row.name}: {shape} voxels (D × H × W){predicted}")
        shown = min(max(len(rows), 2), _MOST_ROWS)
        self.table.setFixedHeight(30 + 22 * shown)
        self.table.setVisible(bool(rows))
        self.path.say("" if project is None else elided(str(project.path)))
        self.path.setToolTip("" if project is None else str(project.path))

    def _fill_dice(self, now: Snapshot) -> None:
        for index in range(self.table.rowCount()):
            dice = now.run.volume_dice.get(self.table.item(index, 0).text())
            self.table.item(index, 3).setText("" if dice is None else f"{100 * dice:.1f}")

    def _mark(self, now: Snapshot) -> None:
        names = [] if now.project is None else [row.name for row in now.project.volumes]
        if now.shown in names:
            with QSignalBlocker(self.table):
                self.table.selectRow(names.index(now.shown))

    def _chosen(self, row: int, *_others: int) -> None:
        item = self.table.item(row, 0)
        if item is not None:
            self._presenter.show_volume(item.text())

    def _open(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Open a project folder")
        if path:
            self._presenter.open_project(Path(path))

    def _sample(self) -> None:
        proposed = str(Path.home() / "phantoms.crln")
        path, _ = QFileDialog.getSaveFileName(
            self, "New folder for the sample project", proposed, "Project folders (*.crln)"
        )
        if path:
            self._presenter.make_sample(Path(path).with_suffix(".crln"))
