"""Annotating from the panel: what is painted is saved, the run is told, and the status line says so. No Qt, no napari."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from napari_crln.events import LabelsChanged
from napari_crln.gui.annotation_saver import AnnotationSaver, SaveState
from napari_crln.gui.background import Background
from napari_crln.gui.model import AnnotationView, PanelModel, Snapshot
from napari_crln.run.watch import send
from napari_crln.types import AnnotationDHW


class Annotator:
    """Savers of the volumes that were painted on, and what the panel shows of them.

    Parameters
    ----------
    refresh : reads the table of volumes again: a role or coverage has changed
    reload : reads a volume again that another process has changed meanwhile
    """

    def __init__(
        self,
        model: PanelModel,
        background: Background,
        refresh: Callable[[], None],
        reload: Callable[[], None],
    ) -> None:
        self._model, self._background = model, background
        self._refresh, self._reload = refresh, reload
        self._savers: dict[str, AnnotationSaver] = {}
        model.changed.connect(self._on_changed)

    # --- what the user chooses

    def set_shown(self, on: bool) -> None:
        """Show the annotation layer of each volume, making one where nothing is annotated yet; or hide it."""
        self._set(on=on, correcting=self._view.correcting and on)

    def set_correcting(self, on: bool) -> None:
        """Begin each slice that is painted on as the pseudo-label that is shown."""
        self._set(correcting=on, on=True if on else self._view.on)

    def say_begun(self, text: str) -> None:
        """What a slice that is corrected began as: it may be an old map."""
        self._set(begun=text)

    # --- what is painted

    def begin(
        self, project: Path, volume: str, painted: Callable[[], Any], revision: int, stored: AnnotationDHW
    ) -> None:
        """Save from now on what is painted on an array; what was painted on an older one is saved first."""
        self.end(volume)
        told = partial(self._on_saved, volume)
        self._savers[volume] = AnnotationSaver(
            project, volume, painted, revision, stored, self._background, told
        )
        self._show(volume)

    def end(self, volume: str) -> bool:
        """Save what is left of a volume, and look at its array no more; False if its array has what could not be saved."""
        saver = self._savers.pop(volume, None)
        if saver is None:
            return True
        state = saver.close()
        self._say_what_is_left(volume, state)
        return not (state.pending or state.error)

    def state(self, volume: str) -> SaveState | None:
        """How far a volume's annotation is saved; None if it has no array to paint on."""
        saver = self._savers.get(volume)
        return None if saver is None else saver.state

    def touch(self, volume: str, *, painted: bool = True) -> None:
        """Something was, or may have been, painted."""
        saver = self._savers.get(volume)
        if saver is not None:
            saver.touch(painted=painted)

    def prepare(self, volume: str) -> None:
        """Somebody is about to paint on a volume."""
        saver = self._savers.get(volume)
        if saver is not None:
            saver.prepare()

    def tick(self) -> None:
        """Save what is due; call it again and again."""
        for saver in self._savers.values():
            saver.tick()

    def close(self) -> None:
        """Save all that is left, now."""
        self._model.changed.disconnect(self._on_changed, missing_ok=True)
        for volume in tuple(self._savers):
            self.end(volume)

    @property
    def _view(self) -> AnnotationView:
        return self._model.snapshot.annotation

    def _set(self, **fields: Any) -> None:
        self._model.update(annotation=replace(self._view, **fields))

    def _on_changed(self, now: Snapshot, old: Snapshot) -> None:
        if now.shown != old.shown:
            saver = self._savers.get(old.shown)
            if saver is not None:
                saver.let_go()
            self._show(now.shown)
        elif now.run.labels_taken != old.run.labels_taken:
            self._tell_taken(now, old)

    def _on_saved(self, volume: str, state: SaveState) -> None:
        if state.saved is not None and not state.error:
            self._tell_run(volume, state.saved.revision)
            self._follow_table(volume, state)
        if state.outdated and not state.pending:
            self._reload()
        self._show(volume)
        if state.error:
            self._model.say(f"Not saved yet: {state.error}", "error")
        elif not state.pending and state.saved is not None:
            self._model.say(f"{volume}: annotation saved, revision {state.revision}.")

    def _show(self, volume: str) -> None:
        """What the section says of the shown volume."""
        if volume != self._model.snapshot.shown:
            return
        state = self.state(volume)
        begun = self._view.begun if volume == self._view.volume else ""
        if state is None:
            self._set(volume=volume, revision=0, saving="none", error="", begun=begun)
            return
        saving: Literal["none", "pending", "saved"] = "pending" if state.pending else "saved"
        if state.revision == 0 and not state.pending:
            saving = "none"
        self._set(volume=volume, revision=state.revision, saving=saving, error=state.error, begun=begun)

    def _tell_run(self, volume: str, revision: int) -> None:
        run = self._model.snapshot.run
        if run.active and run.folder is not None:
            command = LabelsChanged(volume=volume, revision=revision)
            self._background.run(
                partial(send, run.folder, command),
                lambda _: None,
                lambda error: self._model.say(str(error), "error"),
            )

    def _tell_taken(self, now: Snapshot, old: Snapshot) -> None:
        for volume, taken in now.run.labels_taken.items():
            if taken != old.run.labels_taken.get(volume) and volume in self._savers:
                self._model.say(f"{volume}: training has revision {taken[0]} since iteration {taken[1]}.")

    def _follow_table(self, volume: str, state: SaveState) -> None:
        project, saved = self._model.snapshot.project, state.saved
        row = None if project is None else project.row(volume)
        if row is not None and saved is not None and (row.role, row.coverage) != (saved.role, saved.coverage):
            self._refresh()

    def _say_what_is_left(self, volume: str, state: SaveState) -> None:
        if state.error:
            self._model.say(f"{volume}: what you painted last is not saved: {state.error}", "error")
        elif state.saved is not None:
            self._tell_run(volume, state.saved.revision)
