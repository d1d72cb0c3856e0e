"""What the panel's controls do. Knows model, runs and projects; knows no Qt, no napari and no torch.

Training and prediction are child processes of the command line, so every action here can also be done in a
shell. Files are read in the background; answers that come late, for a project or a run that is no longer
the current one, are dropped. All methods are called from one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from napari_crln.errors import CrlnError
from napari_crln.events import (
    Focus,
    LabelsChanged,
    Pause,
    PreviewBudget,
    PreviewSimilarity,
    Resume,
    Started,
    Stop,
)
from napari_crln.gui import obstacles
from napari_crln.gui.background import Background
from napari_crln.gui.following import Report, follow_run, is_trained, last_words
from napari_crln.gui.model import LiveChoice, Message, PanelModel, ProjectView
from napari_crln.gui.project_files import Opened, read_project
from napari_crln.gui.run_view import STATES, RunView, after, pruned
from napari_crln.gui.training_form import form_for, run_config, typed_settings
from napari_crln.run.folder import RUNS, RunFolder
from napari_crln.run.launch import Child, launch
from napari_crln.run.preview import PreviewReader
from napari_crln.run.watch import send

LOG = "output.log"
Launch = Callable[[list[str], Path], Child]


class Presenter:
    """Turns clicks into commands, and events into snapshots.

    Parameters
    ----------
    model : changed by nobody else
    background : does what takes time
    start_process : starts `napari-crln` with arguments and a log file
    """

    def __init__(self, model: PanelModel, background: Background, start_process: Launch = launch) -> None:
        self.model = model
        self._background = background
        self._launch = start_process
        self._unfollow: Callable[[], None] | None = None
        self._child: Child | None = None
        self._spawned = 0.0  # when, `time.monotonic`
        self._focus: tuple[str, int, int] | None = None

    # --- project

    def open_project(self, path: Path) -> None:
        """Open a project folder, and watch its run if it has one; a run's folder opens the project and watches that."""
        self.create_project(lambda: path, f"opening {path.name}")

    def make_sample(self, path: Path) -> None:
        """Make the sample project in a new folder, and open it."""
        self.create_project(partial(_make_sample, path), f"making {path.name}")

    def create_project(
        self, make: Callable[[], Path], doing: str, opened: Callable[[], None] = lambda: None
    ) -> None:
        """Make a project in the background, and open it.

        Parameters
        ----------
        make : returns the project's folder; e.g. one that writes the viewer's open layers into it
        doing : for the status line
        opened : called when it is open
        """
        if reason := obstacles.to_open(self.model.snapshot):
            return self.model.say(reason, "warning")
        self.model.update(busy=doing, message=Message(f"{doing[0].upper()}{doing[1:]} …"))

        def take(found: Opened) -> None:
            self._opened(found)
            opened()

        return self._background.run(lambda: read_project(make()), take, self._not_opened)

    def refresh_volumes(self) -> None:
        """Read the table of volumes again: an import or a prediction has changed it."""
        project = self.model.snapshot.project
        if project is not None:
            self._background.run(partial(read_project, project.path), self._refreshed, self._failed)

    def show_volume(self, name: str) -> None:
        """Make a volume the one that viewer and previews are about."""
        project = self.model.snapshot.project
        row = None if project is None else project.row(name)
        if row is not None and row.fault:
            return self.model.say(row.fault, "error")
        if row is not None:
            live = replace(self.model.snapshot.live, generation=None)  # its history is of its own
            self.model.update(shown=name, live=live)
        return None

    def _opened(self, opened: Opened) -> None:
        self.leave_run()
        count, readable = len(opened.project.volumes), opened.project.readable
        first = readable[0].name if readable else ""
        faults = [row.fault for row in opened.project.volumes if row.fault]
        self.model.update(
            project=opened.project, busy="", shown=first, live=self._live_in(opened.project),
            form=form_for(opened.project.preset, self.model.snapshot.form),
            message=Message(faults[0], "error") if faults else Message(f"{opened.project.name}: {count} volumes."),
        )  # fmt: skip
        if opened.run is not None:
            self.attach(opened.run)

    def _live_in(self, project: ProjectView) -> LiveChoice:
        """The choice, without what was of the former project: layers that were painted on, and a class that this one lacks."""
        former, live = self.model.snapshot.project, self.model.snapshot.live
        if former is None or former.path != project.path:
            live = replace(live, edited=frozenset())
        return live if live.class_index < len(project.classes) else replace(live, class_index=1)

    def _not_opened(self, error: Exception) -> None:
        self.model.update(busy="")
        self._failed(error)

    def _refreshed(self, opened: Opened) -> None:
        current = self.model.snapshot.project
        if current is not None and current.path == opened.project.path:
            self.model.update(project=opened.project)

    # --- training

    def set_form(self, **fields: Any) -> None:
        """Change fields of the Train section."""
        if "preset" in fields:
            fields.setdefault("of_project", False)
        self.model.update(form=replace(self.model.snapshot.form, **fields))

    def start(self) -> None:
        """Make a run folder by the form, and train it in a process of its own."""
        now = self.model.snapshot
        if (reason := obstacles.to_train(now)) or now.project is None:
            return self.model.say(reason, "warning")
        shapes = [row.shape for row in now.project.readable if row.role in ("labelled", "unlabelled")]
        path, form = now.project.path, now.form

        def make() -> Path:
            return RunFolder.create(path, run_config(form, shapes)).path

        self.model.update(busy="making the run folder")
        return self._background.run(make, self._start_made, self._not_opened)

    def resume(self) -> None:
        """Go on: with a paused run at once, with one that has ended from its checkpoint, and with what is typed as settings."""
        now = self.model.snapshot
        if reason := obstacles.to_resume(now):
            return self.model.say(reason, "warning")
        if now.run.state == "paused":
            return self._command(Resume())
        folder = self._folder
        changes = [word for text in typed_settings(now.form) for word in ("--set", text)]
        return self._spawn(
            folder, ["resume", str(folder.parent.parent), "--run", folder.name, *changes, "--json"]
        )

    def pause(self) -> None:
        """Hold training after its step, with a checkpoint; the process keeps its memory."""
        if reason := obstacles.to_pause(self.model.snapshot):
            return self.model.say(reason, "warning")
        self._set_run(state="pausing")
        return self._command(Pause())

    def stop(self) -> None:
        """End training with a checkpoint; the process goes, and with it the memory it held on the GPU."""
        if reason := obstacles.to_stop(self.model.snapshot):
            return self.model.say(reason, "warning")
        starting = self.model.snapshot.run.state == "starting"
        self._set_run(state="stopping")
        if self._child is not None and self._child.alive:  # both see to it that the process ends
            return self._child.terminate(grace_s=30) if starting else self._child.stop()
        return self._command(Stop())

    def attach_named(self, name: str) -> None:
        """Watch another run of the project, by its name."""
        project = self.model.snapshot.project
        if project is not None and name in project.runs and name != self.model.snapshot.run.name:
            self.attach(project.path / RUNS / name)

    def attach(self, folder: Path) -> None:
        """Watch a run, live or ended, from its first event on."""
        self.leave_run()
        self.model.update(run=RunView(folder=folder))
        self._follow(folder)

    def leave_run(self) -> None:
        """Watch no run; one that is being trained goes on."""
        if self._unfollow is not None:
            self._unfollow()
        self._unfollow = self._child = self._focus = None
        self.model.curves.clear()
        live = replace(self.model.snapshot.live, generation=None)
        self.model.update(run=RunView(), live=live)

    def on_report(self, folder: Path, report: Report) -> None:
        """Take in news of a run."""
        view = self.model.snapshot.run
        if view.folder != folder:
            return  # news of a run that is no longer watched
        for event in report.events:
            view = after(view, event)
            self.model.curves.add(event)
        if report.gone and view.active and report.looked > self._spawned:
            view = self._lost(view)
        old = self.model.snapshot.run
        self.model.update(run=view)
        if any(isinstance(event, Started) for event in report.events):
            self._focus = None  # was told to the process before
            self._tell_wishes(folder)
        if view.note and view.note != old.note:
            self.model.say(view.note, "error" if view.state == "failed" else "warning")
        elif view.state != old.state:
            self.model.say(f"{view.name}: {STATES[view.state]}.")

    def _start_made(self, folder: Path) -> None:
        self.leave_run()
        self.model.update(busy="", run=RunView(folder=folder))
        self._spawn(folder, ["train", "--run-folder", str(folder), "--json"])
        self._follow(folder)
        self.refresh_volumes()

    def _spawn(self, folder: Path, arguments: list[str]) -> None:
        try:
            self._child = self._launch(arguments, folder / LOG)
        except (CrlnError, OSError) as error:
            return self._failed(error)
        self._spawned = time.monotonic()
        self._set_run(state="starting", note="")
        return self.model.say(f"Starting {folder.name} …")

    def _follow(self, folder: Path) -> None:
        self._unfollow = self._background.stream(
            lambda: follow_run(folder, partial(self._alive, folder)),
            partial(self.on_report, folder),
            lambda: None,
            self._failed,
        )

    def _alive(self, folder: Path) -> bool:
        """Whether the run's process lives; called in the follower's thread."""
        child = self._child
        return (child is not None and child.log.parent == folder and child.alive) or is_trained(folder)

    def _lost(self, view: RunView) -> RunView:
        """The process went without an `ended` event: what it printed last says why."""
        if view.state == "stopping":
            return replace(view, state="stopped")
        said = last_words(self._child) if self._child is not None else ""
        if said:
            return replace(view, state="failed", note=said)
        return replace(
            view, state="stopped", note="Its process is gone. Resume goes on from its last checkpoint."
        )

    # --- steering

    def labels_changed(self, volume: str, revision: int) -> None:
        """Tell the run that a volume's annotation is another one."""
        if self.model.snapshot.run.active:
            self._command(LabelsChanged(volume=volume, revision=revision))

    def focus(self, volume: str, axis: int, index: int) -> None:
        """Tell the run what the viewer looks at: previews begin there."""
        wanted = (volume, axis, index)
        if wanted != self._focus and self.model.snapshot.run.state in ("training", "paused"):
            self._focus = wanted
            self._command(Focus(volume=volume, axis=axis, index=index))

    def set_budget(self, share: float) -> None:
        """Share of training time, 0-0.5, that previews may take."""
        self.set_live(budget=share)
        if self.model.snapshot.run.active:
            self._command(PreviewBudget(share=share))

    def set_prototype(self, prototype: int) -> None:
        """The prototype, from 1, to which similarity is shown; 0: the largest score of the class's."""
        self.set_live(prototype=prototype)
        if self.model.snapshot.run.active:
            self._command(PreviewSimilarity(prototype=prototype))

    def _tell_wishes(self, folder: Path) -> None:
        """What the user chose before the run's process began, or before it was watched."""
        live = self.model.snapshot.live
        if self.model.snapshot.run.state not in ("training", "paused") or not self._alive(folder):
            return
        if live.budget != LiveChoice().budget:
            self.set_budget(live.budget)
        if live.prototype:
            self.set_prototype(min(live.prototype, self.model.snapshot.run.prototypes))

    def look_for_previews(self) -> None:
        """Drop from the history what the run has removed from its folder."""
        view = self.model.snapshot.run
        if view.folder is not None and view.previews:
            answer = partial(self._previews_found, view.folder, view.previews[-1].generation)
            self._background.run(PreviewReader(view.folder).generations, answer, self._failed)

    def _previews_found(self, folder: Path, newest: int, on_disk: list[int]) -> None:
        now = self.model.snapshot
        if now.run.folder == folder:
            self.model.update(run=pruned(now.run, frozenset(on_disk), newest, now.live.generation))

    def set_live(self, **fields: Any) -> None:
        """Change what is shown live."""
        self.model.update(live=replace(self.model.snapshot.live, **fields))

    def tick_map(self, key: str, shown: bool) -> None:
        """Show a live map, or do without it."""
        live = self.model.snapshot.live
        self.set_live(shown=live.shown | {key} if shown else live.shown - {key}, edited=live.edited - {key})

    def close(self) -> None:
        """Let go of the run: it goes on, or ends with a checkpoint, as the user chose."""
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None
        now = self.model.snapshot
        if now.run.active and not now.keep_running and now.run.folder is not None:
            if now.run.state == "starting" and self._child is not None and self._child.alive:
                # A command that is written now it would take for an older run's, and drop.
                self._child.terminate(grace_s=30)
            else:
                with suppress(CrlnError, OSError):  # its folder is gone: nobody is left to tell of it
                    send(now.run.folder, Stop())

    @property
    def _folder(self) -> Path:
        folder = self.model.snapshot.run.folder
        assert folder is not None, "the obstacles let nobody come here without a run"
        return folder

    def _command(self, command: Any) -> None:
        folder = self.model.snapshot.run.folder
        if folder is not None:
            self._background.run(partial(send, folder, command), lambda _: None, self._failed)

    def _set_run(self, **fields: Any) -> None:
        self.model.update(run=replace(self.model.snapshot.run, **fields))

    def _failed(self, error: Exception) -> None:
        text = str(error) if isinstance(error, CrlnError) else f"{type(error).__name__}: {error}"
        self.model.say(text, "error")


def _make_sample(path: Path) -> Path:
    from napari_crln.volume.sample import (
        make_sample_project,
    )  # SciPy: a quarter of the time to open the panel

    return make_sample_project(path)
