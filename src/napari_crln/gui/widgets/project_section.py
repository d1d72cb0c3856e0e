"""Project: open one, make the sample, and the table of its volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFileDialog,
    QHeaderView,
    QLabel,
    QMenu,
    QTableWidget,
    QTableWidgetItem,
)

from napari_crln.gui import obstacles
from napari_crln.gui.model import ProjectView, Snapshot
from napari_crln.gui.project_place import project_folder
from napari_crln.gui.questions import before_role
from napari_crln.gui.session import Session
from napari_crln.gui.widgets.asking import confirmed
from napari_crln.gui.widgets.new_project import NewProject
from napari_crln.gui.widgets.parts import Button, Hint, Section, elided
from napari_crln.types import Role

ROLES: tuple[Role, ...] = get_args(Role)

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

    def __init__(self, session: Session, new_project: NewProject) -> None:
        super().__init__()
        self._session = session
        self._presenter = session.presenter
        self.new_project = new_project
        self.ask = confirmed
        self.open_button = Button("&Open project…", "Open a project folder (….crln).", self.open_project)
        self.sample_button = Button(
            "Sample pro&ject…",
            "Make a project of synthetic organs in a new folder: ready to train.",
            self._sample,
        )
        self.layers_button = Button(
            "&New from open layers",
            "Make a project of the images that are open, with the labels that belong to them; then press Train.\n"
            f"It goes into {new_project.home}.",
            new_project.begin,
        )
        self.elsewhere_button = Button(
            "New, elsewhere…",
            "Make a project of the images that are open, in a folder that you choose.",
            lambda: new_project.begin(elsewhere=True),
        )
        self.path = Hint("project path")
        self.table = QTableWidget(0, len(_COLUMNS))
        self._prepare_table()
        self.role = QComboBox()
        self.role.addItems(ROLES)
        self.role.setToolTip(_COLUMNS["Role"])
        self.role.activated.connect(lambda index: self.change_role(ROLES[index]))
        self.role_label = QLabel("Role")
        self.role_label.setBuddy(self.role)
        self.add_row(self.open_button, self.sample_button)
        self.add_row(self.layers_button, self.elsewhere_button)
        self.rows.addWidget(self.path)
        self.rows.addWidget(self.table)
        self.add_row(self.role_label, self.role, stretch=1)

    def draw(self, now: Snapshot, old: Snapshot | None) -> None:
        """Show a snapshot; `old` is what is drawn, None for nothing."""
        reason = obstacles.to_open(now)
        self.open_button.hinder(reason)
        self.sample_button.hinder(reason)
        self.layers_button.hinder(reason)
        self.elsewhere_button.hinder(reason)
        self._draw_role(now)
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
        table.cellClicked.connect(self._clicked)
        table.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        table.customContextMenuRequested.connect(self._offer_roles)
        table.hide()

    def _fill(self, project: ProjectView | None) -> None:
        rows = () if project is None else project.volumes
        with QSignalBlocker(self.table):
            self.table.setRowCount(len(rows))
            for index, row in enumerate(rows):
                labels = "damaged" if row.fault else row.coverage or "–"
                for column, text in enumerate((row.name, row.role, labels, "")):
                    self.table.setItem(index, column, QTableWidgetItem(text))
                    if row.fault:
                        self.table.item(index, column).setFlags(Qt.ItemFlag.NoItemFlags)
                        self.table.item(index, column).setToolTip(row.fault)
                if row.fault:
                    continue
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

    def change_role(self, role: Role) -> None:
        """Give the shown volume a role, after a question where it matters."""
        now = self._session.model.snapshot
        question = None if obstacles.to_set_role(now, role) else before_role(now, role)
        row = now.shown_row
        if row is not None and row.role != role and (question is None or self.ask(self, question)):
            self._session.proofreader.set_role(role)
        self._draw_role(self._session.model.snapshot)

    def _draw_role(self, now: Snapshot) -> None:
        row = now.shown_row
        self.role.setVisible(row is not None)
        self.role_label.setVisible(row is not None)
        if row is None:
            return
        reason = obstacles.to_set_role(now)
        self.role.setEnabled(not reason)
        self.role.setToolTip(
            f"What {row.name} is for.\n{_COLUMNS['Role']}" + (f"\nNot now: {reason}" if reason else "")
        )
        self.role_label.setText(f"Role of {elided(row.name, 24)}")
        with QSignalBlocker(self.role):
            self.role.setCurrentIndex(ROLES.index(row.role))

    def _offer_roles(self, at: Any) -> None:
        """The table's context menu: roles of the chosen volume."""
        now = self._session.model.snapshot
        if now.shown_row is None:
            return
        menu = QMenu(self.table)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.setToolTipsVisible(True)
        for role in ROLES:
            action = menu.addAction(f"Make it {role}")
            reason = obstacles.to_set_role(now, role)
            action.setEnabled(not reason and now.shown_row.role != role)
            action.setToolTip(reason)
            action.triggered.connect(lambda _=False, role=role: self.change_role(role))
        menu.popup(self.table.viewport().mapToGlobal(at))

    def _mark(self, now: Snapshot) -> None:
        names = [] if now.project is None else [row.name for row in now.project.volumes]
        if now.shown in names:
            with QSignalBlocker(self.table):
                self.table.selectRow(names.index(now.shown))

    def _chosen(self, row: int, *_others: int) -> None:
        item = self.table.item(row, 0)
        if item is not None:
            self._presenter.show_volume(item.text())

    def _clicked(self, row: int, _column: int) -> None:
        """A click on the volume that is shown brings back what was deleted of it."""
        item = self.table.item(row, 0)
        if item is not None and item.text() == self._session.volumes.shown:
            self._session.show_again()

    def open_project(self) -> None:
        """Ask for a project's folder, and open it."""
        path = QFileDialog.getExistingDirectory(self, "Open a project folder")
        if path:
            self._presenter.open_project(Path(path))

    def watch_run(self) -> None:
        """Ask for a run's folder, open its project and watch it."""
        path = QFileDialog.getExistingDirectory(self, "Watch a run: choose its folder in runs/ of a project")
        if path:
            self._presenter.open_project(Path(path))

    def _sample(self) -> None:
        proposed = str(Path.home() / "phantoms.crln")
        path, _ = QFileDialog.getSaveFileName(
            self, "New folder for the sample project", proposed, "Project folders (*.crln)"
        )
        if path:
            self._presenter.make_sample(project_folder(path))
