"""Who may write an annotation: one process at a time, the threads of it in turn.

The lock lies beside the volume, `volumes/.<name>.zarr.lock`, and names its holder. A panel holds it from the first
stroke on a volume to the last; within a process it can be held any number of times, so that what else the
panel does with the annotation (accepting a slice) is not refused by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_crln.errors import ProjectError
from napari_crln.lock import Holder, Lock, holder

#: Seconds that a writer waits for another to finish its write.
PATIENCE_S = 2.0


class _Desk:
    """What the threads of this process share of one annotation."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.turn = threading.RLock()
        self.lock: Lock | None = None
        self.count = 0


_desks: dict[Path, _Desk] = {}
_desks_guard = threading.Lock()


@contextmanager
def holding(volume: Path, patience: float = PATIENCE_S) -> Iterator[None]:
    """Keep other processes from writing a volume's annotation.

    Raises
    ------
    ProjectError
        If another process holds it for longer than `patience` seconds, naming it, or the folder cannot be written.
    """
    desk = _desk(volume)
    with desk.guard:
        if desk.count == 0:
            desk.lock = _taken(volume, patience)
        desk.count += 1
    try:
        yield
    finally:
        with desk.guard:
            desk.count -= 1
            if desk.count == 0 and desk.lock is not None:
                desk.lock.release()
                desk.lock = None


@contextmanager
def writing(volume: Path, patience: float = PATIENCE_S) -> Iterator[None]:
    """`holding`, and alone among the threads of this process."""
    with holding(volume, patience), _desk(volume).turn:
        yield


def editor(volume: Path) -> Holder | None:
    """The living process, perhaps this one, that holds a volume's annotation; None if nobody does."""
    named = holder(volume.parent, _file(volume))
    return None if named is None or named.alive() is False else named


def _desk(volume: Path) -> _Desk:
    with _desks_guard:
        return _desks.setdefault(volume.absolute(), _Desk())


def _taken(volume: Path, patience: float) -> Lock:
    rule = f"one process edits the annotation of {volume.stem} at a time"
    lock = Lock(volume.parent, _file(volume), patience=patience, error=ProjectError, rule=rule)
    try:
        lock.acquire()
    except OSError as error:
        raise ProjectError(
            f"it cannot be written ({error.strerror})",
            "annotations are saved in the project",
            "Copy the project to where you may write",
            volume,
        ) from error
    return lock


def _file(volume: Path) -> str:
    return f".{volume.name}.lock"
