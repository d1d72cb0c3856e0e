"""Files and folders that appear whole or not at all: written aside in the same folder, synced, renamed.

A reader sees the old or the new one, never a part, whenever the process is killed or the power fails. Names aside
are `.tmp-<host>-<process>-<random>-<name>`: no two writers share one, be they threads, and what a killed process
of this machine left can be told from what a living one is just writing. A folder cannot be renamed over another, so
one that is replaced steps aside for a moment; `current` reads through that moment, and `recover` ends it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from napari_crln.errors import CorruptData, OutOfSpace, ProjectError
from napari_crln.lock import exclusive_folder

_Read = TypeVar("_Read")
_ATTEMPTS = 5
TEMPORARY = ".tmp-"
_OWNED = re.compile(r"\.tmp-(?P<host>[\w.]+)-(?P<process>\d+)-[0-9a-f]{12}-.*", re.ASCII | re.DOTALL)
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}


def temporary(path: Path) -> Path:
    """A fresh name beside `path` for what will be renamed to it."""
    owned = f"{TEMPORARY}{_host()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
    return path.with_name(f"{owned}-{path.name[-40:]}")  # a file system takes 255 bytes


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """`temporary(path)`; what still has the name when the block ends is deleted."""
    name = temporary(path)
    try:
        yield name
    finally:
        _discard(name)


def write_new(path: Path, data: bytes) -> None:
    """Create a file that must not exist, and bring its bytes to the disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """Create or replace a file in one step."""
    with space_for(path.parent, len(data)), aside(path) as new:
        write_new(new, data)
        new.replace(path)
        sync(path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write; it takes the place of `path` when the block ends well, and vanishes otherwise."""
    with space_for(path.parent), aside(path) as new:
        yield new
        sync(new)
        new.replace(path)
        sync(path.parent)


@contextmanager
def creating_folder(path: Path, needed: int | None = None) -> Iterator[Path]:
    """A new folder to fill; it is renamed to `path`, which must not exist then, when the block ends well.

    Parameters
    ----------
    needed : bytes that the block will write, where known; see `space_for`
    """
    with _filling(path, needed) as new:
        yield new
        sync_tree(new)
        check_free(path)
        new.rename(path)
        sync(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As `creating_folder`, for one that may exist: the old one steps aside last, and `recover` undoes a kill."""
    with _filling(path) as new:
        yield new
        sync_tree(new)
        with exclusive_folder(path.parent):  # two writers at once: the later one's stays
            recover(path)
            if path.exists():
                path.rename(_previous(path))
            new.rename(path)
            sync(path.parent)
            shutil.rmtree(_previous(path), ignore_errors=True)


def current(path: Path) -> Path:
    """The folder to read: the previous one in the moment, or after a kill, between the two renames."""
    return _previous(path) if not path.exists() and _previous(path).exists() else path


def read_whole(path: Path, read: Callable[[Path], _Read]) -> _Read:
    """What `read` makes of a folder that `replacing_folder` may replace meanwhile: of the old or of the new one, never of both.

    Files are opened by their path one by one, so that without this some may be of the one and some of the other.
    """
    for _ in range(_ATTEMPTS):
        folder = current(path)
        before = _identity(folder)
        try:
            found = read(folder)
        except (CorruptData, FileNotFoundError):
            if _identity(current(path)) == before:
                raise
            continue
        if _identity(current(path)) == before:
            return found
    with exclusive_folder(path.parent):  # writers wait for us now
        return read(current(path))


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def recover(path: Path) -> None:
    """For the writer: put back the previous folder if another was killed between the two renames."""
    old = _previous(path)
    if old.exists():
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(path)


def check_within(path: Path, root: Path) -> None:
    """Refuse, with ProjectError, a path that links lead out of a folder; a part that is still to be made is fine."""
    expected, real = root.resolve() / path.relative_to(root), path.resolve()
    if real != expected:
        raise ProjectError(
            f"a link leads to {real}",
            "what a project holds lies in its folder",
            "Put the data itself there, or remove the link",
            path,
        )


def check_free(path: Path) -> None:
    """Refuse, with ProjectError, to create what exists."""
    if path.exists():
        raise ProjectError("it exists", "nothing is overwritten", "Choose another name, or remove it", path)


def sweep(folder: Path) -> None:
    """Remove what processes of this machine that are gone left half-written in a folder."""
    for entry in folder.iterdir():
        owner = _OWNED.fullmatch(entry.name)
        if owner and owner["host"] == _host() and _is_gone(int(owner["process"])):
            _discard(entry)


@contextmanager
def space_for(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Raise OutOfSpace, with bytes needed and free, before or while the block fills the disk.

    Where the folder may not be written to, raise ProjectError.

    Parameters
    ----------
    folder : existing folder on the disk that is written to
    needed : bytes that the block will write; None where compression decides: then nothing is refused beforehand
    """
    if needed is not None and shutil.disk_usage(folder).free < needed:
        raise _out_of_space(folder, needed)
    try:
        yield
    except OSError as error:
        if error.errno in _READ_ONLY:
            raise _read_only(folder, error) from error
        if error.errno not in _FULL:
            raise
        raise _out_of_space(folder, needed) from error


def sync_tree(folder: Path) -> None:
    """Bring every file and folder below to the disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            sync(Path(root) / name)
        sync(Path(root))


def sync(path: Path) -> None:
    """Bring a file's bytes, or a folder's entries (names, renames), to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot sync folders
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _filling(path: Path, needed: int | None = None) -> Iterator[Path]:
    """A new folder aside, and before it none of a dead process; free space is told with it removed again."""
    with space_for(_existing(path.parent)):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
    with space_for(path.parent, needed), aside(path) as new:
        new.mkdir()
        yield new


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.previous")


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())[:64] or "host"


def _is_gone(process: int) -> bool:
    if os.name == "nt":  # signal 0 would end the process
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        return False
    return False


def _read_only(folder: Path, error: OSError) -> ProjectError:
    return ProjectError(
        f"it cannot be written to ({error.strerror})",
        "the folder belongs to who changes it",
        "Make it writable, or work on a copy; nothing was changed",
        folder,
    )


def _out_of_space(folder: Path, needed: int | None) -> OutOfSpace:
    free = shutil.disk_usage(folder).free
    return OutOfSpace(
        f"{f'more than {free}' if needed is None else needed} bytes are needed and {free} are free",
        "nothing is written that does not fit",
        "Free some space, then repeat or resume; nothing was changed",
        folder,
    )
