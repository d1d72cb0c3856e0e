"""What a run has come to, from one pass over its events, whatever their number."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from napari_crln.events import Continued, Ended, Event, Paused, Started, Stepped, Validated, parse_event

State = Literal["new", "running", "paused", "finished", "stopped", "interrupted", "failed", "lost"]
_STEPPED = b'"kind":"stepped"'


@dataclass(frozen=True)
class RunStatus:
    """State of a run.

    Parameters
    ----------
    method : as started; "" before
    step : optimiser steps done, by the last event
    iterations : optimiser steps wanted; 0 before the start
    reason : why it ended last; None if it has not, or was resumed since
    losses : of the last report
    best_dice : best validation so far, 0-1; None without one
    alive : whether a process trains it; None if that cannot be told from this machine
    """

    method: str = ""
    step: int = 0
    iterations: int = 0
    reason: Literal["finished", "stopped", "interrupted", "failed"] | None = None
    message: str = ""
    losses: dict[str, float] = field(default_factory=dict)
    best_dice: float | None = None
    paused: bool = False
    alive: bool | None = False

    @property
    def state(self) -> State:
        """In one word; "lost": its process went without a last event, so resume it."""
        if self.reason is not None:
            return self.reason
        if self.alive is False:
            return "lost" if self.method else "new"
        return "paused" if self.paused else "running"


def read_status(events: Path, *, alive: bool | None = False) -> RunStatus:
    """Status by an event log; a missing log is a new run's, damaged lines are passed over."""
    status = RunStatus(alive=alive)
    report: bytes | None = None
    try:
        with events.open("rb") as lines:
            for line in lines:
                if _STEPPED in line and line.endswith(b"\n"):
                    report = line  # by far the most lines: only the last is parsed
                elif line.endswith(b"\n"):
                    status, report = _with_line(status, report), None
                    status = _with_line(status, line)
    except FileNotFoundError:
        return status
    return _with_line(status, report)


def _with_line(status: RunStatus, line: bytes | None) -> RunStatus:
    try:
        event = parse_event(line) if line else None
    except ValueError:
        return status
    return status if event is None else _after(replace(status, step=event.step), event)


def _after(status: RunStatus, event: Event) -> RunStatus:
    match event:
        case Started():
            return replace(
                status,
                method=event.method,
                iterations=event.iterations,
                reason=None,
                message="",
                paused=False,
            )
        case Stepped():
            return replace(status, losses=event.losses)
        case Validated():
            better = not math.isnan(event.dice) and event.dice > (status.best_dice or -1.0)
            return replace(status, best_dice=event.dice) if better else status
        case Paused() | Continued():
            return replace(status, paused=isinstance(event, Paused))
        case Ended():
            return replace(status, reason=event.reason, message=event.message, paused=False)
        case _:
            return status
