"""Labels that change while training runs: noticed and read on a thread, put into place between two steps.

A `labels_changed` command makes the thread look at once; as commands can be lost it also looks by itself, at most once
a second, at what a write changes: the manifest and each annotation's metadata, by their file times. It reads the box
that has changed and prepares it for the cohort; the step waits for none of this, save when a command has gone
unanswered for `WITHIN` steps: then the loop waits, so that labels are taken within 10 iterations however short.
One look at a time, and what it found is put into place before the next: so nothing here needs a lock.

A volume serves as what its role in the project says: who writes an annotation sets the role (`volume.annotate`). One
that becomes labelled or unlabelled moves; the last labelled one stays, and teaches nothing. What becomes a validation
or test volume is read no more, and stays what it was until the run is resumed. An annotation that cannot be
read is warned of once, and the old labels are kept.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_crln import events
from napari_crln.engine.cohort import Relabelling
from napari_crln.engine.data import Batches, TrainingData
from napari_crln.errors import CrlnError

if TYPE_CHECKING:  # a run without a project does without what reads one
    from napari_crln.volume.annotation import Annotated, Box
    from napari_crln.volume.project import Project
    from napari_crln.volume.stored import Volume

#: Steps that a command may go unanswered before the loop waits for the thread.
WITHIN = 8
_EVERY_S = 1.0
_LONGEST_WAIT_S = 30.0
_ATTEMPTS = 5


@dataclass(frozen=True)
class _Known:
    """What training has of a volume: revision and state of its annotation, and what the volume serves as."""

    revision: int
    labelled: bool
    signature: tuple[int, ...] = ()
    #: State of the annotation in which it could not be read.
    unreadable: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class _News:
    """What a look found out about a volume."""

    volume: str
    known: _Known
    #: New labels to put into place.
    change: Relabelling | None = None
    #: Whether to tell of it: it has changed, or somebody asked.
    told: bool = True
    warning: str = ""


class LabelsIntake:
    """Keeps the labels of a run's batches as the project has them.

    Parameters
    ----------
    project : where they come from; none: from no project, and they never change
    data : what training began with
    batches : changed by `take` alone
    clock : seconds
    """

    def __init__(
        self,
        project: Project | None,
        data: TrainingData,
        batches: Batches,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batches, self._clock = batches, clock
        self._looker = None if project is None else _Looker(project, batches)
        self._known = {case.name: _Known(case.revision, labelled=True) for case in data.labelled}
        self._known |= {case.name: _Known(0, labelled=False) for case in data.unlabelled}
        self._wanted: set[str] = set()
        self._asked_at: int | None = None  # step of the oldest command that has no answer
        self._look: _Look | None = None
        self._next_look = -float("inf")

    def want(self, command: events.LabelsChanged, step: int) -> None:
        """Look at a volume now: somebody says that its labels have changed."""
        self._wanted.add(command.volume)
        if self._asked_at is None:
            self._asked_at = step

    def take(self, step: int) -> Iterator[events.Event]:
        """Put into place what is ready, and tell of it; called between two steps."""
        if self._looker is None:
            yield from (
                events.Warned(step=step, message=_without_project(name)) for name in sorted(self._wanted)
            )
            self._wanted.clear()
            return
        yield from self._advance(step)
        while self._asked_at is not None and step - self._asked_at >= WITHIN and self._look is not None:
            self._look.join(_LONGEST_WAIT_S)
            if self._look.is_alive():
                return
            yield from self._advance(step)

    def unanswered(self) -> set[str]:
        """Volumes whose labels somebody said had changed, and that nothing was told of since."""
        return self._wanted | (set() if self._look is None else self._look.wanted)

    def forget(self, name: str) -> None:
        """Take no more labels of a volume that is trained on no longer."""
        self.close()
        self._known.pop(name, None)

    def close(self) -> None:
        """Wait a while for a look that is under way."""
        if self._look is not None:
            self._look.join(_LONGEST_WAIT_S)

    def _advance(self, step: int) -> Iterator[events.Event]:
        """Act on a look that has ended; begin the next one if it is time."""
        if self._look is not None and not self._look.is_alive():
            look, self._look = self._look, None
            if look.wanted and not self._wanted:
                self._asked_at = None
            for news in look.found:
                yield from self._act(news, step)
        if self._look is None and (self._wanted or self._clock() >= self._next_look):
            assert self._looker is not None
            self._next_look = self._clock() + _EVERY_S
            self._look = _Look(self._looker, dict(self._known), frozenset(self._wanted))
            self._wanted.clear()
            self._look.start()

    def _act(self, news: _News, step: int) -> Iterator[events.Event]:
        known = news.known
        if news.change is not None and news.volume not in self._known:
            return  # it was found before the volume was set aside
        if news.change is not None:
            self._batches.relabel(news.change)
        elif news.volume in self._known and self._known[news.volume].labelled and not known.labelled:
            self._batches.unlabel(news.volume)
        if news.volume in self._known:
            self._known[news.volume] = known
        if news.warning:
            yield events.Warned(step=step, message=news.warning)
        elif news.told:
            role = "labelled" if known.labelled else "unlabelled"
            yield events.LabelsTaken(step=step, volume=news.volume, revision=known.revision, role=role)


class _Look(threading.Thread):
    """One look at the project; `found` is complete when the thread has ended."""

    def __init__(self, looker: _Looker, known: dict[str, _Known], wanted: frozenset[str]) -> None:
        super().__init__(name="crln-labels", daemon=True)
        self._looker, self._known, self.wanted = looker, known, wanted
        self.found: list[_News] = []

    def run(self) -> None:
        self.found = self._looker.look(self._known, self.wanted)


class _Looker:
    """Compares a project with what training has of it; all of it runs on the looks' threads, one at a time."""

    def __init__(self, project: Project, batches: Batches) -> None:
        self._path, self._batches = project.path, batches
        self._volumes = dict(project.volumes)
        self._manifest: tuple[int, ...] = ()
        self._said = ""

    def look(self, known: dict[str, _Known], wanted: frozenset[str]) -> list[_News]:
        """News of all volumes that have some, or are wanted."""
        try:
            self._refresh()
        except (CrlnError, OSError) as error:
            said, self._said = self._said, str(error)
            return [] if said == self._said else [_News("", _Known(0, labelled=False), warning=self._said)]
        found = [news for name in known if (news := self._of_volume(name, known[name], name in wanted))]
        strangers = (
            _News(name, _Known(0, labelled=False), warning=_stranger(name)) for name in wanted - known.keys()
        )
        return [*found, *strangers]

    def _refresh(self) -> None:
        """Read the manifest again if it was written."""
        from napari_crln.volume import manifest
        from napari_crln.volume.project import Project

        status = (self._path / manifest.FILE).stat()
        signature = status.st_mtime_ns, status.st_ino, status.st_size
        if signature != self._manifest:
            self._volumes = dict(Project.open(self._path).volumes)
            self._manifest = signature

    def _of_volume(self, name: str, known: _Known, wanted: bool) -> _News | None:
        from napari_crln.volume import annotation

        volume = self._volumes.get(name)
        if volume is None or volume.role not in ("labelled", "unlabelled"):
            return None
        signature = annotation.signature(volume.path)
        if signature and signature == known.unreadable:
            return None
        try:
            if volume.role == "unlabelled":
                now = _Known(volume.revision, labelled=False, signature=signature)
                return _News(name, now) if known.labelled or wanted else None
            return self._of_labelled(volume, known, signature, wanted)
        except (CrlnError, OSError) as error:
            warning = f"labels of {name} are kept as they were: {error}"
            return _News(name, replace(known, unreadable=signature), warning=warning)

    def _of_labelled(
        self, volume: Volume, known: _Known, signature: tuple[int, ...], wanted: bool
    ) -> _News | None:
        if known.labelled and (signature == known.signature or volume.revision == known.revision):
            same = _Known(known.revision, labelled=True, signature=signature)
            return _News(volume.name, same, told=wanted) if wanted or same != known else None
        annotated, box = self._read(volume, known)
        target = volume.classes.targets(annotated.values)
        change = self._batches.labelled.prepare(volume.name, target, box)
        return _News(volume.name, _Known(annotated.revision, labelled=True, signature=signature), change)

    def _read(self, volume: Volume, known: _Known) -> tuple[Annotated, Box | None]:
        """The box that has changed, as one revision has it; the whole where that is not known."""
        for _ in range(_ATTEMPTS if known.labelled else 0):
            revision, box = volume.revision, volume.changes_since(known.revision)
            if box is None:
                break
            box = self._batches.labelled.affected(volume.name, box)
            annotated = volume.read_annotated(box)
            if annotated.revision == revision:  # else something outside the box may have changed too
                return annotated, box
        return volume.read_annotated(), None


def _stranger(name: str) -> str:
    return f"labels of {name!r} are not taken: this run does not train on a volume of that name"


def _without_project(name: str) -> str:
    return f"labels of {name!r} are not taken: this run got its volumes from memory, not from a project"
