"""`watch` follows a run that is trained elsewhere: by the panel, another shell, another machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_crln.cli.console import print_json_line, remark, say
from napari_crln.cli.options import AsJson
from napari_crln.cli.signals import INTERRUPTED
from napari_crln.errors import RunError

if TYPE_CHECKING:
    from napari_crln.events import Ended, Event
    from napari_crln.run.folder import RunFolder

_ASK_EVERY_S = 2.0


def watch(
    path: Annotated[Path, typer.Argument(metavar="PROJECT|RUN", help="Project folder, or folder of a run.")],
    run: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Run of the project; default: the one that trains, or the newest."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Follow a run until it ends; Ctrl-C stops watching, and the run goes on."""
    folder = _run(path, run)
    try:
        ended = _printed(folder) if as_json else _shown(folder)
    except KeyboardInterrupt:
        remark(f"{folder.name} is watched no longer; it goes on.")
        raise typer.Exit(INTERRUPTED) from None
    if ended.reason == "failed":
        raise RunError(
            ended.message or "it failed", "training ended early", "Mend it and resume", folder.path
        )
    if not as_json:
        say(f"{folder.name}: {ended.reason} at iteration {ended.step} after {ended.seconds:.0f} s")


def events_until_end(folder: RunFolder, poll_s: float = 0.2) -> Iterator[Event]:
    """Events of a run from its first to its end; waits for a run that has not started.

    Raises
    ------
    RunError
        If its process is gone and it has not ended.
    """
    from napari_crln.run.watch import follow

    next_ask, gone = time.monotonic(), False
    for event in follow(folder.path, poll_s=poll_s, until_ended=True):
        if event is not None:
            gone = False
            yield event
        elif gone:  # the log was read to its end after the process was seen gone
            raise RunError("its process is gone", "a run ends with an event", "Go on by resume", folder.path)
        elif time.monotonic() >= next_ask:
            next_ask = time.monotonic() + _ASK_EVERY_S
            gone = folder.status().state == "lost"


def _run(path: Path, name: str | None) -> RunFolder:
    """The run that is meant: named, or being trained, or the newest."""
    from napari_crln.cli.runs import named_run
    from napari_crln.events import ENVIRONMENT_FILE
    from napari_crln.run.folder import RunFolder, runs

    if (path / ENVIRONMENT_FILE).exists():
        return RunFolder.open(path.resolve())
    if name is not None:
        return named_run(path, name)
    known = runs(path)
    if not known:
        raise RunError("no run", "watch follows one", "Train one, or check the path", path)
    trained = [each for each in known if each.status().state in ("running", "paused")]
    return (trained or known)[-1]


def _printed(folder: RunFolder) -> Ended:
    from napari_crln.events import dump_line

    ended: Ended | None = None
    for event in events_until_end(folder):
        print_json_line(dump_line(event).decode())
        ended = _end(event) or ended
    return _certain(ended)


def _shown(folder: RunFolder) -> Ended:
    from napari_crln.cli.live import TrainingDisplay

    ended: Ended | None = None
    with TrainingDisplay(folder.config().iterations) as display:
        for event in events_until_end(folder):
            display.show(event)
            ended = _end(event) or ended
    return _certain(ended)


def _end(event: Event) -> Ended | None:
    from napari_crln.events import Ended

    return event if isinstance(event, Ended) else None


def _certain(ended: Ended | None) -> Ended:
    assert ended is not None, "events_until_end returns after the end, or raises"
    return ended
