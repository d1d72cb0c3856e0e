"""Writes that survive a crash: aside in the same folder, fsync, rename, fsync of the folder.

A reader sees the old file or the new one, never a part. The names of things written aside start with
`.tmp-`; whoever owns a folder may delete such leftovers.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_crln.errors import OutOfSpace

TEMPORARY = ".tmp-"
_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}


def temporary(path: Path) -> Path:
    """A fresh name beside `path` for what will be renamed to it."""
    return path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:12]}")


def write_new(path: Path, data: bytes) -> None:
    """Create a file that must not exist, and bring its bytes to the disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """Create or replace a file in one step."""
    aside = temporary(path)
    try:
        write_new(aside, data)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries (names, renames) to the disk; where folders cannot be opened, nothing."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def space_for(folder: Path, needed: int) -> Iterator[None]:
    """Raise OutOfSpace, with bytes needed and free, before or while the block fills the disk.

    Parameters
    ----------
    folder : existing folder on the disk that is written to
    needed : bytes that the block will write
    """
    if shutil.disk_usage(folder).free < needed:
        raise _out_of_space(folder, needed)
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _out_of_space(folder, needed) from error


def _out_of_space(folder: Path, needed: int) -> OutOfSpace:
    free = shutil.disk_usage(folder).free
    return OutOfSpace(
        f"{needed} bytes are needed and {free} are free",
        "nothing is written that does not fit",
        "Free some space, then resume",
        folder,
    )
