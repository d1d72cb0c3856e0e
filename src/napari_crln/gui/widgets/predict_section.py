"""Predict: segment the shown volume or all, with the watched run."""

from __future__ import annotations

from qtpy.QtWidgets import QCheckBox, QProgressBar

from napari_crln.gui import obstacles
from napari_crln.gui.model import PanelModel, PredictionView, Snapshot
from napari_crln.gui.predictor import Predictor
from napari_crln.gui.widgets.parts import Button, Hint, Section


class PredictSection(Section):
    """The last section."""

    def __init__(self, model: PanelModel, predictor: Predictor) -> None:
        super().__init__()
        self._model, self._predictor = model, predictor
        self.shown_button = Button(
            "Predict s&hown", "Segment the shown volume with the watched run; replaces its older prediction.",
            self._predict_shown,
        )  # fmt: skip
        self.all_button = Button(
            "Predict &all", "Segment every volume of the project with the watched run; replaces older predictions.",
            self._predict_all,
        )  # fmt: skip
        self.cancel_button = Button(
            "Cancel", "End the prediction; volumes that are done keep their result.", predictor.cancel
        )
        self.clues = QCheckBox("Use clues")
        self.clues.setChecked(True)
        self.clues.setToolTip(
            "Predict from logits and clues (z + (1 − μ) M); unticked: from the logits alone."
        )
        self.bar = QProgressBar()
        self.bar.setToolTip("Share of the windows of all volumes that are done, %.")
        self.why = Hint("why not predict")
        self.rows.addWidget(self.clues)
        self.add_row(self.shown_button, self.all_button, self.cancel_button)
        self.rows.addWidget(self.bar)
        self.rows.addWidget(self.why)

    def draw(self, now: Snapshot, old: Snapshot | None) -> None:
        """Show a snapshot."""
        self.shown_button.hinder(obstacles.to_predict_shown(now))
        self.all_button.hinder(obstacles.to_predict(now))
        running = now.prediction.running
        self.cancel_button.setVisible(running)
        self.cancel_button.hinder("It is being cancelled." if now.prediction.stopping else "")
        self.why.say("" if running else obstacles.to_predict_shown(now))
        self.clues.setEnabled(not now.run.method or now.run.method == "crln")
        if old is None or now.prediction != old.prediction:
            self._draw_bar(now.prediction)

    def _draw_bar(self, view: PredictionView) -> None:
        self.bar.setVisible(view.running)
        self.bar.setRange(0, view.total)  # 0: busy, while it starts
        self.bar.setValue(view.done)
        self.bar.setFormat(f"{view.name}  %p %")

    def _predict_shown(self) -> None:
        self._predictor.predict((self._model.snapshot.shown,), self.clues.isChecked())

    def _predict_all(self) -> None:
        self._predictor.predict((), self.clues.isChecked())
