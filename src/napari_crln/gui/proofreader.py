"""Proofreading from the panel: predictions become annotations, annotations are restored, volumes change role.

Each is done in the background on the project's files, as `napari-crln accept` and `role` do it; then the table and
the layers are read again, and the run that is being trained is told. The annotation that was there before is always
kept, so there is nothing here that cannot be undone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from napari_crln.errors import CrlnError
from napari_crln.gui import obstacles
from napari_crln.gui.background import Background
from napari_crln.gui.model import PanelModel
from napari_crln.types import Role
from napari_crln.volume import proofread
from napari_crln.volume.accept import Plane
from napari_crln.volume.project import Project
from napari_crln.volume.proofread import NONE_YET, Outcome

#: Told of a volume and the revision of its new annotation.
LabelsChanged = Callable[[str, int], None]


class Proofreader:
    """What the buttons *Accept*, *Restore* and the roles do; for the volume that is shown.

    Parameters
    ----------
    labels_changed : tells the run
    changed : called when table and layers are out of date
    """

    def __init__(
        self,
        model: PanelModel,
        background: Background,
        labels_changed: LabelsChanged,
        changed: Callable[[], None],
    ) -> None:
        self._model = model
        self._background = background
        self._labels_changed = labels_changed
        self._changed = changed

    def accept(self, plane: Plane | None = None) -> None:
        """Make the stored prediction, or one slice of it, the annotation."""
        reason = obstacles.to_accept(self._model.snapshot)
        self._replace(reason, "accepting", lambda project, name: proofread.accept(project, name, plane))

    def restore(self, revision: int) -> None:
        """Bring an annotation back; 0: none, as before the first."""
        reason = obstacles.to_restore(self._model.snapshot)
        self._replace(
            reason, "restoring", lambda project, name: proofread.restore(project, name, revision), revision
        )

    def set_role(self, role: Role) -> None:
        """Say what the volume is for."""
        now = self._model.snapshot
        if (reason := obstacles.to_set_role(now, role)) or now.project is None:
            return self._model.say(reason, "warning")
        path, name = now.project.path, now.shown
        self._model.update(busy=f"changing the role of {name}")

        def change() -> Role:
            return Project.open(path).set_role(name, role).role

        return self._background.run(change, partial(self._role_set, path, name), self._failed)

    def _replace(
        self, reason: str, doing: str, act: Callable[[Project, str], Outcome], restored: int | None = None
    ) -> None:
        now = self._model.snapshot
        if reason or now.project is None:
            return self._model.say(reason, "warning")
        path, name = now.project.path, now.shown
        self._model.update(busy=f"{doing} the annotation of {name}")
        return self._background.run(
            lambda: act(Project.open(path), name), partial(self._replaced, path, name, restored), self._failed
        )

    def _replaced(self, path: Path, name: str, restored: int | None, done: Outcome) -> None:
        self._model.update(busy="")
        self._model.say(_said(name, done, restored))
        if self._is_open(path):
            self._labels_changed(name, done.revision)
            self._changed()

    def _role_set(self, path: Path, name: str, role: Role) -> None:
        self._model.update(busy="")
        self._model.say(f"{name} is {role} now; the next run goes by it.")
        if self._is_open(path):
            self._changed()

    def _is_open(self, path: Path) -> bool:
        project = self._model.snapshot.project
        return project is not None and project.path == path

    def _failed(self, error: Exception) -> None:
        text = str(error) if isinstance(error, CrlnError) else f"{type(error).__name__}: {error}"
        self._model.update(busy="")
        self._model.say(text, "error")
        self._changed()


def _said(name: str, done: Outcome, restored: int | None) -> str:
    """What became of a volume, in a line."""
    if restored is None:
        first = f"{name}: the prediction is its annotation now ({done.coverage}, revision {done.revision})."
    elif restored == NONE_YET:
        first = f"{name}: its annotation is taken back."
    else:
        first = f"{name}: revision {restored} is its annotation again, as revision {done.revision}."
    role = "" if done.role == done.was else f" It was {done.was} and is {done.role} now."
    kept = "" if done.kept is None else f" The one before is kept in {'/'.join(done.kept.parts[-3:])}."
    return first + role + kept
