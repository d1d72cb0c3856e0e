"""Prediction from the panel: `napari-crln predict` as a child process, its progress read from what it prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from napari_crln.errors import CrlnError
from napari_crln.gui import obstacles
from napari_crln.gui.background import Background
from napari_crln.gui.following import PredictionReport, follow_prediction, last_words
from napari_crln.gui.model import PanelModel, PredictionChoice, PredictionView
from napari_crln.gui.presenter import Launch
from napari_crln.run.launch import Child, launch
from napari_crln.run.watch import Tail

LOG = "predict.log"


class Predictor:
    """Starts, follows and cancels a prediction; one at a time.

    Parameters
    ----------
    predicted : called when volumes have new predictions
    """

    def __init__(
        self,
        model: PanelModel,
        background: Background,
        predicted: Callable[[], None],
        start_process: Launch = launch,
    ) -> None:
        self._model = model
        self._background = background
        self._predicted = predicted
        self._launch = start_process
        self._child: Child | None = None

    def choose(self, **fields: Any) -> None:
        """Change fields of the `PredictionChoice`."""
        self._model.update(predicting=replace(self._model.snapshot.predicting, **fields))

    def predict(self, volumes: tuple[str, ...]) -> None:
        """Segment volumes (none named: all) with the watched run, and store the results in the project."""
        now = self._model.snapshot
        reason = obstacles.to_predict(now)
        if reason or now.project is None or now.run.folder is None:
            return self._model.say(reason, "warning")
        arguments = ["predict", str(now.project.path), "--run", now.run.name, "--json", "--progress"]
        arguments += [word for name in volumes for word in ("--volume", name)]
        arguments += _options(now.predicting)
        log = now.run.folder / LOG
        lines = Tail(log)
        lines.skip()
        try:
            child = self._launch(arguments, log)
        except (CrlnError, OSError) as error:
            return self._model.say(f"Prediction could not start: {error}", "error")
        self._child = child
        self._model.update(prediction=PredictionView(running=True))
        self._model.say("Predicting …")
        self._background.stream(
            partial(follow_prediction, child, lines),
            self.on_report,
            partial(self._ended, child),
            lambda error: self._model.say(str(error), "error"),
        )
        return None

    def cancel(self) -> None:
        """End the process; volumes that are done keep their prediction, others keep what they had."""
        view = self._model.snapshot.prediction
        if self._child is not None and view.running:
            self._model.update(prediction=replace(view, stopping=True))
            self._child.terminate()

    def close(self) -> None:
        """End a prediction that still runs."""
        if self._child is not None and self._child.alive:
            self._child.terminate()

    def on_report(self, report: PredictionReport) -> None:
        """Take in progress."""
        view = self._model.snapshot.prediction
        self._model.update(
            prediction=replace(view, done=report.done, total=report.total, name=report.name)
        )  # fmt: skip

    def _ended(self, child: Child) -> None:
        cancelled = self._model.snapshot.prediction.stopping
        self._child = None
        self._model.update(prediction=PredictionView())
        if cancelled:
            self._model.say("Prediction cancelled: volumes that were done keep their result.", "warning")
        elif child.returncode == 0:
            self._model.say("Predicted.")
        else:
            said = last_words(child) or f"Prediction ended with status {child.returncode}."
            self._model.say(said, "error")
        self._predicted()


def _options(choice: PredictionChoice) -> list[str]:
    """A choice as options of the command line; none for what is the default there."""
    best = ["--checkpoint", "best"] if choice.checkpoint == "best" else []
    return best if choice.clues else [*best, "--without-clues"]
