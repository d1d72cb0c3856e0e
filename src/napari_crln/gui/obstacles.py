"""Why a button is disabled, as a sentence; "" where it is not."""

from __future__ import annotations

from napari_crln.gui.model import Snapshot

_NO_PROJECT = "Open a project first."


def to_open(now: Snapshot) -> str:
    """Why no other project may be opened."""
    if now.busy:
        return f"Please wait: {now.busy}."
    if now.prediction.running:
        return "A prediction is running: cancel it, or wait."
    return ""


def to_train(now: Snapshot) -> str:
    """Why no run may be started."""
    if now.busy:
        return f"Please wait: {now.busy}."
    if now.project is None:
        return _NO_PROJECT
    if now.run.active:
        return "A run is being trained: stop it before you start another."
    roles = {row.role for row in now.project.volumes}
    if "labelled" not in roles:
        return "No volume of this project is labelled: training needs at least one."
    if "unlabelled" not in roles and now.form.method != "supervised":
        return "No volume is unlabelled: choose the method 'supervised', or add volumes."
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
    return "" if now.run.checkpointed else "The run has no checkpoint yet: pause or stop it to make one."


def to_predict_shown(now: Snapshot) -> str:
    """Why the shown volume cannot be predicted."""
    return to_predict(now) or ("" if now.shown else "No volume is shown: click one in the table.")


def to_annotate(now: Snapshot) -> str:
    """Why nothing can be painted on the shown volume."""
    row = None if now.project is None else now.project.row(now.shown)
    if row is None:
        return "No volume is shown: click one in the table."
    if row.role not in ("labelled", "unlabelled"):
        return f"{row.name} is a {row.role} volume: its labels measure models, and are not painted on here."
    return "" if now.annotation.on else "The annotation layer is switched off."
