"""Generators that follow a run and a prediction. They yield None or a report when idle, so that they can be ended.

They run in threads; what they yield is immutable, or handed over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from napari_crln.events import Event, Started
from napari_crln.lock import holder
from napari_crln.run.launch import Child
from napari_crln.run.watch import Tail, follow

#: Most events in one report: more would keep the viewer's thread for longer than a frame.
BATCH = 500
#: Seconds between two looks at whether the process lives: its death is told at the second beat after it at the latest.
BEAT_S = 0.5
_POLL_S = 0.1
_PROGRESS = b'{"kind":"progress"'


@dataclass(frozen=True)
class Report:
    """News of a run.

    Parameters
    ----------
    events : since the last report
    gone : its process had ended before all of its events were read, so that no more will come
    looked : when that was looked at, `time.monotonic`: of a process that was started later, `gone` says nothing
    """

    events: tuple[Event, ...] = ()
    gone: bool = False
    looked: float = 0.0


def follow_run(
    folder: Path, alive: Callable[[], bool], *, beat_s: float = BEAT_S, poll_s: float = _POLL_S
) -> Iterator[Report | None]:
    """Events of a run in batches; a report without events every `beat_s` while nothing comes."""
    batch: list[Event] = []
    lives, looked, next_beat = True, 0.0, 0.0
    for event in follow(folder, poll_s=poll_s):
        if event is not None:
            batch.append(event)
            lives = lives or isinstance(event, Started)  # a new process, whom the next look will be about
        if len(batch) >= BATCH:
            yield Report(tuple(batch))
            batch = []
        elif event is None:
            due = time.monotonic() >= next_beat
            yield Report(tuple(batch), not lives, looked) if batch or due else None
            batch = []
            if due:  # asked before the log is read to its end again, so that a last event is not overlooked
                looked = time.monotonic()
                lives, next_beat = alive(), time.monotonic() + beat_s


def last_words(child: Child) -> str:
    """What a process said last, for the status line; "" if that was nothing for a person."""
    said = child.tail().strip().splitlines()
    return "" if not said or said[-1].startswith("{") else said[-1].removeprefix("napari-crln: ")


def is_trained(folder: Path) -> bool:
    """Whether a process holds the run; True where another machine's cannot be asked."""
    named = holder(folder)
    return named is not None and named.alive() is not False


@dataclass(frozen=True)
class PredictionReport:
    """Progress of a prediction, in steps of all its volumes; `done` and `total` are 0 while it starts."""

    done: int = 0
    total: int = 0
    name: str = ""


def follow_prediction(child: Child, lines: Tail) -> Iterator[PredictionReport | None]:
    """Progress that a predicting child prints, until it ends."""
    while True:
        ended = not child.alive
        reports = [report for line in lines.lines() if (report := _parsed(line)) is not None]
        yield reports[-1] if reports else None
        if ended:
            return
        time.sleep(_POLL_S)


def _parsed(line: bytes) -> PredictionReport | None:
    if not line.startswith(_PROGRESS):
        return None
    try:
        values = json.loads(line)
        return PredictionReport(int(values["done"]), int(values["total"]), str(values["name"]))
    except (ValueError, KeyError, TypeError):
        return None
