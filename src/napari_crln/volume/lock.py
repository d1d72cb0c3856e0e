"""One writer at a time on a project's manifest, across processes and hosts on a shared file system."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_crln.errors import ProjectError
from napari_crln.volume.atomic import is_gone, owner

FILE = ".lock"


@contextmanager
def locked(project: Path, patience: float = 10.0) -> Iterator[None]:
    """Hold the project's lock; the lock of a process of this machine that is gone is broken.

    Raises
    ------
    ProjectError
        If another process holds it for longer than `patience` seconds.
    """
    path = project / FILE
    _acquire(path, time.monotonic() + patience)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _acquire(path: Path, deadline: float) -> None:
    while True:
        try:
            with path.open("x") as file:
                file.write(owner())
            return
        except FileExistsError:
            holder = _holder(path)
        if holder and is_gone(holder):
            path.unlink(missing_ok=True)
        elif time.monotonic() > deadline:
            raise ProjectError(
                f"locked by {holder or 'another process'}",
                "one process changes a project at a time",
                f"Let it finish; if it is gone, remove {path.name}",
                path.parent,
            )
        else:
            time.sleep(0.02)


def _holder(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
