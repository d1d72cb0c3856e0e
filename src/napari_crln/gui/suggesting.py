"""Suggestions from the panel for a run that is not in training: `napari-crln suggest --publish` as a child process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from napari_crln.errors import CrlnError
from napari_crln.gui import obstacles
from napari_crln.gui.background import Background
from napari_crln.gui.following import last_words
from napari_crln.gui.model import PanelModel
from napari_crln.gui.presenter import Launch
from napari_crln.run.launch import Child, launch

LOG = "suggest.log"
_POLL_S = 0.2


class SliceSuggester:
    """Starts the process and follows it to its end; the list then comes by way of the run folder."""

    def __init__(self, model: PanelModel, background: Background, start_process: Launch = launch) -> None:
        self._model, self._background, self._launch = model, background, start_process
        self._child: Child | None = None

    def suggest(self) -> None:
        """Rank the slices by the watched run's last checkpoint."""
        now = self._model.snapshot
        reason = obstacles.to_suggest(now)
        if reason or now.project is None or now.run.folder is None:
            return self._model.say(reason, "warning")
        arguments = ["suggest", str(now.project.path), "--run", now.run.name, "--publish", "--json"]
        try:
            self._child = child = self._launch(arguments, now.run.folder / LOG)
        except (CrlnError, OSError) as error:
            return self._model.say(f"Suggesting could not start: {error}", "error")
        self._model.update(suggesting=True)
        self._background.stream(
            partial(_until_ended, child),
            lambda _: None,
            partial(self._ended, child),
            lambda error: self._model.say(str(error), "error"),
        )
        return None

    def close(self) -> None:
        """End a process that still runs."""
        if self._child is not None and self._child.alive:
            self._child.terminate()

    def _ended(self, child: Child) -> None:
        self._child = None
        self._model.update(suggesting=False)
        if child.returncode != 0:
            said = last_words(child) or f"Suggesting ended with status {child.returncode}."
            self._model.say(said, "error")


def _until_ended(child: Child) -> Iterator[None]:
    while child.alive:
        yield None
        time.sleep(_POLL_S)
