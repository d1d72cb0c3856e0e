"""Annotate: the layer to paint on, complete slices, correcting, and whether all is saved."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QSignalBlocker
from qtpy.QtWidgets import QCheckBox

from napari_crln.gui import obstacles
from napari_crln.gui.annotator import Annotator
from napari_crln.gui.model import Snapshot
from napari_crln.gui.widgets.parts import Button, Hint, Section


class AnnotateSection(Section):
    """The section between Live layers and Predict.

    Parameters
    ----------
    ready : selects the annotation layer of the shown volume, with the brush ready
    complete : marks the shown slice as complete
    """

    def __init__(
        self, annotator: Annotator, ready: Callable[[], object], complete: Callable[[], None]
    ) -> None:
        super().__init__()
        self.shown = QCheckBox("&Annotation layer")
        self.shown.setToolTip(
            "Show the layer that the volume is annotated on: 0 is not annotated, 1 background, then the classes. "
            "What you paint is saved as you paint it."
        )
        self.shown.toggled.connect(annotator.set_shown)
        self.correct = QCheckBox("&Correct")
        self.correct.setToolTip(
            "The first stroke on a slice fills what is not annotated of it with the pseudo-label that is shown, or "
            "the prediction: paint only where that is wrong. Undo takes the stroke back, then the filling."
        )
        self.correct.toggled.connect(annotator.set_correcting)
        self.paint = Button("&Brush", "Select the annotation layer, with the brush ready.", ready)
        self.complete = Button(
            "Slice co&mplete",
            "This slice is annotated completely: whatever is not painted in it is background. Can be undone.",
            complete,
        )
        self.why = Hint("why not annotate")
        self.saving = Hint("annotation saved")
        self.add_row(self.shown, self.correct)
        self.add_row(self.paint, self.complete)
        self.rows.addWidget(self.why)
        self.rows.addWidget(self.saving)

    def draw(self, now: Snapshot, old: Snapshot | None) -> None:
        """Show a snapshot."""
        view = now.annotation
        without, reason = obstacles.to_show_annotation(now), obstacles.to_annotate(now)
        with QSignalBlocker(self.shown), QSignalBlocker(self.correct):
            self.shown.setChecked(
                view.on and not without
            )  # what is chosen holds for the next volume that has a layer
            self.correct.setChecked(view.correcting and not without)
        self.shown.setEnabled(not without)
        self.why.say(reason)
        self.paint.hinder(reason)
        self.complete.hinder(reason)
        self.correct.setEnabled(not reason)
        if old is None or (view, now.run.labels_taken) != (old.annotation, old.run.labels_taken):
            self.saving.say(
                saved_text(now), "error" if view.error else "warning" if view.saving == "pending" else "info"
            )


def saved_text(now: Snapshot) -> str:
    """What is saved, and what training has of it."""
    view = now.annotation
    if view.error:
        return f"Not saved yet: {view.error}"
    if view.saving == "pending":
        return "Saving …"
    if view.saving == "none":
        return ""
    taken = now.run.labels_taken.get(view.volume)
    has_it = taken is not None and taken[0] >= view.revision
    trained = f" Training has it since iteration {taken[1]}." if taken is not None and has_it else ""
    waits = (
        " Training takes it in soon."
        if now.run.state == "training" and taken is not None and not has_it
        else ""
    )
    begun = f" {view.begun}" if view.begun else ""
    return f"Saved, revision {view.revision}.{trained}{waits}{begun}"
