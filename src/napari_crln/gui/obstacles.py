"""Why a button is disabled, as a sentence; "" where it is not."""

from __future__ import annotations

from napari_crln.gui.model import Snapshot
from napari_crln.types import Role

_NO_PROJECT = "Open a project first."


def to_open(now: Snapshot) -> str:
    """Why no other project may be opened."""
    if now.busy:
        return f"Please wait: {now.busy}."
    if now.prediction.running:
        return "A prediction is running: cancel it, or wait."
    return "An export is running: cancel it, or wait." if now.export.running else ""


def to_train(now: Snapshot) -> str:
    """Why no run may be started."""
    if now.busy:
        return f"Please wait: {now.busy}."
    if now.project is None:
        return _NO_PROJECT
    if now.run.active:
        return "A run is being trained: stop it before you start another."
    roles = {row.role for row in now.project.readable}
    if "labelled" not in roles:
        return "No volume of this project is labelled: training needs at least one."
    return ""


def to_pause(now: Snapshot) -> str:
    """Why training cannot be paused."""
    match now.run.state:
        case "training":
            return ""
        case "paused" | "pausing":
            return "It is paused." if now.run.state == "paused" else "It pauses after this step."
        case "starting":
            return "It is starting."
        case "stopping":
            return "It is stopping."
        case _:
            return "Nothing is being trained."


def to_resume(now: Snapshot) -> str:
    """Why training cannot go on."""
    run = now.run
    if run.state == "paused":
        return ""
    if run.active:
        return "It is being trained."
    if run.folder is None:
        return "No run is chosen."
    if run.state == "finished":
        return "The run has finished."
    return f"Please wait: {now.busy}." if now.busy else ""


def to_stop(now: Snapshot) -> str:
    """Why training cannot be stopped."""
    if now.run.state == "stopping":
        return "It is stopping: it ends with a checkpoint."
    return "" if now.run.active else "Nothing is being trained."


def to_predict(now: Snapshot) -> str:
    """Why nothing can be predicted."""
    if now.project is None:
        return _NO_PROJECT
    if now.busy:
        return f"Please wait: {now.busy}."
    if now.prediction.running:
        return "A prediction is running."
    if now.run.folder is None:
        return "Train first: there is no run to predict with."
    return _without_checkpoint(now)


def _without_checkpoint(now: Snapshot) -> str:
    """Why the watched run has not the checkpoint that was chosen."""
    if not now.run.checkpointed:
        return "The run has no checkpoint yet: pause or stop it to make one."
    if now.predicting.checkpoint == "best" and not now.run.has_best:
        return "No checkpoint is the best yet: that takes validation volumes. Choose the newest."
    return ""


def to_predict_shown(now: Snapshot) -> str:
    """Why the shown volume cannot be predicted."""
    return to_predict(now) or ("" if now.shown else "No volume is shown: click one in the table.")


def to_show_annotation(now: Snapshot) -> str:
    """Why the shown volume has no layer to paint on."""
    row = now.shown_row
    if now.project is None:
        return _NO_PROJECT
    if row is None:
        return "No volume is shown: click one in the table."
    if row.role not in ("labelled", "unlabelled"):
        return f"{row.name} is a {row.role} volume: its labels measure models, and are not painted on here."
    return ""


def to_annotate(now: Snapshot) -> str:
    """Why nothing can be painted on the shown volume."""
    return to_show_annotation(now) or ("" if now.annotation.on else "The annotation layer is switched off.")


def to_suggest(now: Snapshot) -> str:
    """Why no slices can be suggested by a process of its own."""
    if now.project is None:
        return _NO_PROJECT
    if now.run.active:
        return "The run in training keeps the list up to date."
    if now.suggesting:
        return "The volumes are being looked at."
    if now.run.folder is None:
        return "Train first: there is no run to go by."
    return "" if now.run.checkpointed else "The run has no checkpoint."


def to_change_labels(now: Snapshot) -> str:
    """Why the shown volume's annotation cannot be replaced, whatever by."""
    if now.project is None:
        return _NO_PROJECT
    if now.busy:
        return f"Please wait: {now.busy}."
    return "" if now.shown_row is not None else "No volume is shown: click one in the table."


def to_accept(now: Snapshot) -> str:
    """Why the shown volume's prediction cannot become its annotation."""
    row = now.shown_row
    if (reason := to_change_labels(now)) or row is None:
        return reason
    if row.role in ("validation", "test"):
        return f"{row.name} is a {row.role} volume: a prediction is no truth to measure models by."
    if not row.predicted:
        return f"{row.name} has no prediction: predict it first."
    return "A prediction is running: wait for it." if now.prediction.running else ""


def to_restore(now: Snapshot) -> str:
    """Why no earlier annotation of the shown volume can be had back."""
    row = now.shown_row
    if (reason := to_change_labels(now)) or row is None:
        return reason
    return "" if row.restorable else f"No other annotation of {row.name} is kept."


def to_set_role(now: Snapshot, role: Role | None = None) -> str:
    """Why the shown volume cannot have that role; without one, why it cannot have any other."""
    row = now.shown_row
    if (reason := to_change_labels(now)) or row is None:
        return reason
    if now.run.active:
        return "A run is being trained: stop it before you change roles."
    if role in ("labelled", "validation") and row.coverage is None:
        return f"{row.name} has no labels: annotate it, or accept its prediction, first."
    return ""


def to_export(now: Snapshot) -> str:
    """Why no predictions can be exported."""
    if now.project is None:
        return _NO_PROJECT
    if now.export.running:
        return "An export is running."
    if now.prediction.running:
        return "A prediction is running: wait for it."
    return "" if now.project.predicted else "No volume has a prediction yet."
