"""What the panel shows of a run: a frozen view, folded from the run's events one by one.

The state is what the run's own events say, save for the moments between a click and the run's answer (starting,
pausing, stopping), which the presenter sets and the answer ends.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from napari_crln.events import (
    Checkpointed,
    Continued,
    Ended,
    Event,
    LabelsTaken,
    Paused,
    Previewed,
    Started,
    Stepped,
    Validated,
    Warned,
)

RunState = Literal[
    "idle", "starting", "training", "pausing", "paused", "stopping", "finished", "stopped", "failed"
]
#: States in which a process trains, or is about to.
ACTIVE: frozenset[RunState] = frozenset({"starting", "training", "pausing", "paused", "stopping"})
#: Each state in words.
STATES: dict[RunState, str] = {
    "idle": "not trained yet",
    "starting": "starting …",
    "training": "training",
    "pausing": "pausing …",
    "paused": "paused",
    "stopping": "stopping …",
    "finished": "finished",
    "stopped": "stopped",
    "failed": "failed",
}
_ENDED: dict[str, RunState] = {
    "finished": "finished",
    "stopped": "stopped",
    "interrupted": "stopped",
    "failed": "failed",
}


@dataclass(frozen=True)
class Progress:
    """How far training is.

    Parameters
    ----------
    step, iterations : optimiser steps done and wanted
    rate : iterations a second
    remaining_s : None if unknown
    memory_mb : of the device, or of the process on a CPU
    """

    step: int = 0
    iterations: int = 0
    rate: float = 0.0
    remaining_s: float | None = None
    memory_mb: float = 0.0


@dataclass(frozen=True)
class Preview:
    """A generation of live maps that is complete; `kept`: and still on the disk."""

    generation: int
    volume: str
    step: int
    kept: bool = True
    region: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class RunView:
    """A run as it stands.

    Parameters
    ----------
    folder : None if no run is watched
    note : last remark of the run, a warning or why it ended
    labels_taken : revision of each volume's annotation that training took in last, and at which iteration
    checkpointed : whether there is something to predict with, or to resume from
    prototypes : prototypes a class; 0: the method has none
    has_best : whether a validation has named a checkpoint the best
    """

    folder: Path | None = None
    state: RunState = "idle"
    method: str = ""
    progress: Progress = Progress()
    losses: dict[str, float] = field(default_factory=dict)
    volume_dice: dict[str, float] = field(default_factory=dict)
    previews: tuple[Preview, ...] = ()
    labels_taken: dict[str, tuple[int, int]] = field(default_factory=dict)
    note: str = ""
    checkpointed: bool = False
    prototypes: int = 0
    has_best: bool = False

    @property
    def active(self) -> bool:
        return self.state in ACTIVE

    @property
    def name(self) -> str:
        return "" if self.folder is None else self.folder.name


def after(view: RunView, event: Event) -> RunView:  # noqa: PLR0911 - one return an event
    """The view after one more event of its run."""
    view = replace(view, progress=replace(view.progress, step=event.step))
    match event:
        case Started():
            return _started(view, event)
        case Stepped():
            return _stepped(view, event)
        case Validated():
            return replace(view, volume_dice=dict(event.per_volume), has_best=view.has_best or event.best)
        case Checkpointed():
            return replace(view, checkpointed=True)
        case Previewed():
            return _previewed(view, event)
        case LabelsTaken():
            taken = {**view.labels_taken, event.volume: (event.revision, event.step)}
            return replace(view, labels_taken=taken)
        case Paused() if view.state != "stopping":
            return replace(view, state="paused")
        case Continued() if view.state != "stopping":
            return replace(view, state="training")
        case Warned():
            return replace(view, note=event.message)
        case Ended():
            return replace(view, state=_ENDED[event.reason], note=event.message)
        case _:
            return view


def _started(view: RunView, event: Started) -> RunView:
    progress = Progress(step=event.step, iterations=event.iterations)
    state: RunState = "stopping" if view.state == "stopping" else "training"
    previews = tuple(p for p in view.previews if p.step <= event.step)
    return replace(
        view, state=state, method=event.method, progress=progress, previews=previews, note="",
        checkpointed=view.checkpointed or event.resumed, prototypes=event.prototypes,
    )  # fmt: skip


def _stepped(view: RunView, event: Stepped) -> RunView:
    progress = Progress(
        event.step, view.progress.iterations, event.rate, event.remaining_s, event.memory_mb
    )  # fmt: skip
    return replace(view, progress=progress, losses=dict(event.losses))


def _previewed(view: RunView, event: Previewed) -> RunView:
    known = view.previews
    if known and known[-1].generation >= event.generation:
        known = tuple(p for p in known if p.generation < event.generation)
    return replace(
        view, previews=(*known, Preview(event.generation, event.volume, event.step, region=event.region))
    )


def pruned(view: RunView, on_disk: Container[int], newest: int, shown: int | None) -> RunView:
    """The view without the generations, up to the newest one that was looked for, that are no longer on disk.

    The one that is shown stays in the list, as not kept, until something else is shown.
    """
    previews = tuple(
        replace(p, kept=p.generation > newest or p.generation in on_disk)
        for p in view.previews
        if p.generation > newest or p.generation in on_disk or p.generation == shown
    )
    return replace(view, previews=previews)
