"""Predict: segment the shown volume or all with the watched run, accept what is good, export."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QMenu, QProgressBar

from napari_crln.errors import FilesExist
from napari_crln.gui import obstacles
from napari_crln.gui.model import ExportView, PredictionView, Snapshot, VolumeRow
from napari_crln.gui.questions import before_accepting, before_overwriting
from napari_crln.gui.session import Session
from napari_crln.gui.widgets.asking import confirmed
from napari_crln.gui.widgets.parts import Button, Hint, Section
from napari_crln.volume.accept import Plane
from napari_crln.volume.proofread import NONE_YET

_CHECKPOINTS = {"last": "Newest", "best": "Best on validation"}


class PredictSection(Section):
    """The last section."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self._model, self._predictor = session.model, session.predictor
        self.ask = confirmed
        self._make_predicting()
        self._make_proofreading()
        self.export_button = Button(
            "E&xport predictions…",
            "Write the stored predictions into a folder, as NIfTI on the grids of the files that the volumes came from; asks before it writes over any.",
            self._export,
        )
        self.cancel_export_button = Button(
            "Cancel export", "End after the file that is being written.", session.exporter.cancel
        )
        self._lay_out()

    def draw(self, now: Snapshot, old: Snapshot | None) -> None:
        """Show a snapshot."""
        self._draw_predicting(now)
        self.accept_button.hinder(obstacles.to_accept(now))
        self.accept_slice_button.hinder(obstacles.to_accept(now))
        self.restore_button.hinder(obstacles.to_restore(now))
        self.export_button.hinder(obstacles.to_export(now))
        self.cancel_export_button.setVisible(now.export.running)
        self.why_accept.say("" if now.project is None else obstacles.to_accept(now))
        if old is None or (now.prediction, now.export) != (old.prediction, old.export):
            self._draw_bar(now.prediction, now.export)

    def _make_predicting(self) -> None:
        self.shown_button = Button(
            "Pre&dict shown", "Segment the shown volume with the watched run; replaces its older prediction.",
            self._predict_shown,
        )  # fmt: skip
        self.all_button = Button(
            "Pred&ict all", "Segment every volume of the project with the watched run; replaces older predictions.",
            self._predict_all,
        )  # fmt: skip
        self.cancel_button = Button(
            "Cancel", "End the prediction at once; volumes that are done keep their result.",
            self._predictor.cancel,
        )  # fmt: skip
        self.checkpoint = QComboBox()
        self.checkpoint.addItems(list(_CHECKPOINTS.values()))
        self.checkpoint.setToolTip(
            "Weights to predict with: the newest, or those with the highest Dice on the validation volumes."
        )
        self.checkpoint.activated.connect(
            lambda index: self._predictor.choose(checkpoint=list(_CHECKPOINTS)[index])
        )
        self.clues = QCheckBox("Use clues")
        self.clues.toggled.connect(lambda on: self._predictor.choose(clues=on))
        self.bar = QProgressBar()
        self.why = Hint("why not predict")

    def _make_proofreading(self) -> None:
        self.accept_button = Button(
            "Acc&ept volume…",
            "Make the prediction of the shown volume its annotation; asks first, and keeps the annotation before.",
            lambda: self._accept(None),
        )
        self.accept_slice_button = Button(
            "Accept slice…",
            "Make the prediction of the slice that the viewer shows its annotation; other slices stay as they are.",
            self._accept_slice,
        )
        self.restore_button = Button(
            "&Restore", "Bring an earlier annotation of the shown volume back; the present one is kept, too.",
            lambda: None,
        )  # fmt: skip
        self.restore_menu = QMenu(self.restore_button)
        self.restore_menu.aboutToShow.connect(self.fill_restore_menu)
        self.restore_button.setMenu(self.restore_menu)
        self.why_accept = Hint("why not accept")

    def _lay_out(self) -> None:
        self.add_form({"Checkpoint": self.checkpoint})
        self.rows.addWidget(self.clues)
        self.add_row(self.shown_button, self.all_button, self.cancel_button)
        self.rows.addWidget(self.why)
        self.rows.addWidget(self.bar)
        self.add_row(self.accept_button, self.accept_slice_button, self.restore_button)
        self.rows.addWidget(self.why_accept)
        self.add_row(self.export_button, self.cancel_export_button)

    def fill_restore_menu(self) -> None:
        """List what can be had back, newest first."""
        row = self._model.snapshot.shown_row
        self.restore_menu.clear()
        for revision in () if row is None else row.restorable:
            action = self.restore_menu.addAction(_restored_text(row, revision))
            action.triggered.connect(
                lambda _=False, revision=revision: self._session.proofreader.restore(revision)
            )

    def _draw_predicting(self, now: Snapshot) -> None:
        running = now.prediction.running
        self.shown_button.hinder(obstacles.to_predict_shown(now))
        self.all_button.hinder(obstacles.to_predict(now))
        self.cancel_button.setVisible(running)
        self.cancel_button.hinder("It is being cancelled." if now.prediction.stopping else "")
        self.why.say("" if running else obstacles.to_predict_shown(now))
        plain = bool(now.run.method) and now.run.method != "crln"
        self.clues.setEnabled(not plain)
        without = f"\nNot now: the method {now.run.method} has no clues." if plain else ""
        self.clues.setToolTip(
            f"Predict from logits and clues (z + (1 − μ) M); unticked: from the logits alone.{without}"
        )
        with QSignalBlocker(self.clues), QSignalBlocker(self.checkpoint):
            self.clues.setChecked(now.predicting.clues)
            self.checkpoint.setCurrentIndex(list(_CHECKPOINTS).index(now.predicting.checkpoint))

    def _draw_bar(self, prediction: PredictionView, export: ExportView) -> None:
        view = prediction if prediction.running else export
        of = "windows of all volumes that are" if prediction.running else "files that are"
        self.bar.setToolTip(f"Share of the {of} done, %.")
        self.bar.setVisible(view.running)
        self.bar.setRange(0, view.total)  # 0: busy, while it starts
        self.bar.setValue(view.done)
        self.bar.setFormat(f"{view.name}  %p %")

    def _predict_shown(self) -> None:
        self._predictor.predict((self._model.snapshot.shown,))

    def _predict_all(self) -> None:
        self._predictor.predict(())

    def _accept_slice(self) -> None:
        position = self._session.volumes.position()
        if position is None:
            self._model.say(
                "The viewer shows no single slice of the volume: switch from 3D to 2D.", "warning"
            )
        else:
            self._accept(Plane(*position))

    def _accept(self, plane: Plane | None) -> None:
        row = self._model.snapshot.shown_row
        if row is not None and self.ask(self, before_accepting(row, plane)):
            self._session.proofreader.accept(plane)

    def _export(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "Folder for the NIfTI files")
        if path:
            self._session.exporter.export(Path(path), exist=partial(self._overwrite, Path(path)))

    def _overwrite(self, folder: Path, error: FilesExist) -> None:
        """Files are in the way: the user says whether they may go."""
        if self.ask(self, before_overwriting(folder, error)):
            self._session.exporter.export(folder, overwrite=True)
        else:
            self._model.say("Nothing was exported.")


def _restored_text(row: VolumeRow | None, revision: int) -> str:
    """What an entry of the menu says: the revision, what was annotated in it, and until when it was in use."""
    if revision == NONE_YET:
        return "No annotation"
    kept = () if row is None else row.kept
    found = next((each for each in kept if each.revision == revision), None)
    if found is None:
        return f"Revision {revision}"
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.until))
    return f"Revision {revision}: {found.coverage}, in use until {until}"
