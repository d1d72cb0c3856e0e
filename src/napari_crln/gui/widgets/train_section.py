"""Train: what to train, the buttons, and how far it is."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import ComboBox, Container, LineEdit, SpinBox
from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QApplication, QCheckBox, QComboBox, QLabel, QProgressBar

from napari_crln.errors import ConfigError
from napari_crln.gui import obstacles
from napari_crln.gui.model import Snapshot
from napari_crln.gui.presenter import Presenter
from napari_crln.gui.run_view import STATES, RunView
from napari_crln.gui.training_form import DEVICES, METHODS, command_line, preset_names, usual_iterations
from napari_crln.gui.widgets.parts import Button, Hint, Section, clock

_PAUSE = ("Pa&use", "Hold after this step, with a checkpoint.")
_RESUME = ("Res&ume", "Go on: at once if it is paused, from its last checkpoint if it has ended.")


class TrainSection(Section):
    """The second section."""

    def __init__(self, presenter: Presenter) -> None:
        super().__init__()
        self._presenter = presenter
        self.form = self._make_form()
        self.train_button = Button("&Train", "Start a new run in a process of its own.", presenter.start)
        self.pause_button = Button(*_PAUSE, self._pause_or_resume)
        self.stop_button = Button(
            "&Stop", "End with a checkpoint and free memory and GPU; Resume goes on later.", presenter.stop
        )
        self.why = Hint("why not train")
        self.runs = QComboBox()
        self.runs.setToolTip("The run that is watched, and that Predict uses.")
        self.runs.activated.connect(lambda _: presenter.attach_named(self.runs.currentText()))
        self.bar = QProgressBar()
        self.bar.setToolTip("Iterations done and wanted.")
        self.figures = Hint("figures")
        self.figures.setToolTip(
            "Iterations a second, time left (h:mm:ss), memory of the process or GPU (MB)."
        )
        self.keep = QCheckBox("Go on training after napari is closed")
        self.keep.setToolTip("Ticked: the process lives on, and opening the project again shows it. "
                             "Unticked: closing this panel or napari stops it, with a checkpoint.")  # fmt: skip
        self.keep.toggled.connect(lambda on: presenter.model.update(keep_running=on))
        self.copy_button = Button(
            "Cop&y as command", "Copy the command that does the same in a shell.", self._copy
        )
        self._lay_out()

    def draw(self, now: Snapshot, old: Snapshot | None) -> None:
        """Show a snapshot."""
        self._draw_buttons(now)
        if old is None or now.form != old.form:
            self._draw_form(now)
        if old is None or now.run != old.run or now.project != old.project:
            self._draw_runs(now)
            self._draw_progress(now.run)
        with QSignalBlocker(self.keep):
            self.keep.setChecked(now.keep_running)

    def _make_form(self) -> Any:
        form = Container(widgets=[
            ComboBox(name="preset", label="Preset", choices=preset_names(),
                     tooltip="Values for a kind of data; automatic: patch size by your volumes and machine."),
            ComboBox(name="method", label="Method", choices=METHODS,
                     tooltip="crln: the full method; the others are baselines to compare with."),
            SpinBox(name="iterations", label="Iterations", min=1, max=10_000_000, step=100,
                    tooltip="Length of training, optimiser steps."),
            ComboBox(name="device", label="Device", choices=DEVICES,
                     tooltip="Where to train; auto takes a GPU if there is one."),
            LineEdit(name="settings", label="Settings",
                     tooltip="More settings, e.g. seed=1; batches.labelled=1 - as --set of the command line. Resume takes them, too: e.g. optimiser.learning_rate=0.02."),
        ])  # fmt: skip
        form.preset.changed.connect(self._preset_chosen)
        for name in ("method", "iterations", "device", "settings"):
            form[name].changed.connect(lambda value, name=name: self._presenter.set_form(**{name: value}))
        return form

    def _lay_out(self) -> None:
        self.add_form({field.label: field.native for field in self.form})
        self.add_row(self.train_button, self.pause_button, self.stop_button)
        self.rows.addWidget(self.why)
        label = QLabel("Run")
        label.setBuddy(self.runs)
        self.run_row = self.add_row(label, self.runs, stretch=1)
        self.rows.addWidget(self.bar)
        self.rows.addWidget(self.figures)
        self.rows.addWidget(self.keep)
        self.rows.addWidget(self.copy_button)

    def _draw_buttons(self, now: Snapshot) -> None:
        why = obstacles.to_train(now)
        self.train_button.hinder(why)
        self.stop_button.hinder(obstacles.to_stop(now))
        resumable = now.run.state in ("paused", "stopped", "failed")
        self.pause_button.offer(*(_RESUME if resumable else _PAUSE))
        self.pause_button.hinder(obstacles.to_resume(now) if resumable else obstacles.to_pause(now))
        self.why.say("" if now.run.active else why)
        self.copy_button.hinder("" if now.project is not None else "Open a project first.")

    def _draw_form(self, now: Snapshot) -> None:
        for name in ("preset", "method", "iterations", "device", "settings"):
            field = self.form[name]
            if field.value != getattr(now.form, name):
                with field.changed.blocked():
                    field.value = getattr(now.form, name)

    def _draw_runs(self, now: Snapshot) -> None:
        known = () if now.project is None else now.project.runs
        names = [*known, *([now.run.name] if now.run.name and now.run.name not in known else [])]
        with QSignalBlocker(self.runs):
            if [self.runs.itemText(i) for i in range(self.runs.count())] != names:
                self.runs.clear()
                self.runs.addItems(names)
            self.runs.setCurrentIndex(names.index(now.run.name) if now.run.name else -1)
        for index in range(self.run_row.count()):
            self.run_row.itemAt(index).widget().setVisible(bool(names))

    def _draw_progress(self, run: RunView) -> None:
        watched = run.folder is not None
        self.bar.setVisible(watched)
        self.keep.setVisible(run.active)
        self.figures.say(_figures(run) if watched else "")
        progress = run.progress
        self.bar.setRange(0, 0 if run.state == "starting" else max(progress.iterations, 1))
        self.bar.setValue(progress.step)
        self.bar.setFormat(f"%v of {progress.iterations}" if progress.iterations else "")

    def _preset_chosen(self, preset: str) -> None:
        now = self._presenter.model.snapshot.form
        self._presenter.set_form(preset=preset, iterations=usual_iterations(preset, now.device))

    def _pause_or_resume(self) -> None:
        if self._presenter.model.snapshot.run.state == "training":
            self._presenter.pause()
        else:
            self._presenter.resume()

    def _copy(self) -> None:
        model = self._presenter.model
        if model.snapshot.project is None:
            return None
        try:
            command = command_line(model.snapshot.form, model.snapshot.project.path)
        except ConfigError as error:
            return model.say(str(error), "error")
        QApplication.clipboard().setText(command)
        return model.say("The command is on the clipboard.")


def _figures(run: RunView) -> str:
    parts = [STATES[run.state]]
    progress = run.progress
    if run.active and progress.rate:
        parts += [f"{progress.rate:.3g} it/s", f"{clock(progress.remaining_s)} left"]
    if progress.memory_mb and run.active:
        parts.append(f"{progress.memory_mb:.0f} MB")
    return "  ·  ".join(parts)
