"""Files and folders that appear whole or not at all: written aside in the same folder, synced, renamed.

The name aside tells host and process, so that what a killed process left can be swept without touching what
another, living one is just writing.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_crln.errors import OutOfSpace, ProjectError

_ASIDE = re.compile(r"^\..+\.aside-(?P<owner>[A-Za-z0-9._]+-\d+)$")


def aside(path: Path) -> Path:
    """The name, in the same folder, under which this process writes `path`."""
    return path.with_name(f".{path.name}.aside-{owner()}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write; it takes the place of `path` when the block ends well, and vanishes otherwise."""
    temporary = aside(path)
    try:
        with space_guard(path):
            yield temporary
            _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


@contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """A new folder to fill; it is renamed to `path`, which must not exist then, when the block ends well."""
    temporary = aside(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with space_guard(path):
            yield temporary
            sync_tree(temporary)
        check_free(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """As `creating_folder`, for one that may exist: the old one steps aside last, and `recover` undoes a kill."""
    temporary, old = aside(path), previous(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with space_guard(path):
            yield temporary
            sync_tree(temporary)
        recover(path)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def check_free(path: Path) -> None:
    """Refuse, with ProjectError, to create what exists."""
    if path.exists():
        raise ProjectError("it exists", "nothing is overwritten", "Choose another name, or remove it", path)


def previous(path: Path) -> Path:
    """Where the replaced folder waits for the moment between two renames."""
    return path.with_name(f".{path.name}.previous")


def current(path: Path) -> Path:
    """The folder to read: the previous one in the moment, or after a kill, between the two renames."""
    return previous(path) if not path.exists() and previous(path).exists() else path


def recover(path: Path) -> None:
    """For the writer: put back the previous folder if another was killed between the two renames."""
    old = previous(path)
    if old.exists():
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(path)


def sweep(folder: Path) -> None:
    """Remove what processes of this machine that are gone left half-written in a folder."""
    for entry in folder.iterdir():
        match = _ASIDE.match(entry.name)
        if match and is_gone(match["owner"]):
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)


@contextmanager
def space_guard(path: Path) -> Iterator[None]:
    """Turn the system's "no space left" into OutOfSpace."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        free = shutil.disk_usage(path.parent).free
        raise OutOfSpace(
            f"the disk is full ({free / 1e6:.0f} MB free)",
            "writing needs room",
            "Free some space and repeat; nothing was changed",
            path,
        ) from error


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below to the disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            _sync(Path(root) / name)
        _sync(Path(root))


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot sync folders
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def owner() -> str:
    """This process, as `host-pid`."""
    return f"{_host()}-{os.getpid()}"


def is_gone(process: str) -> bool:
    """Whether a process named by `owner` ran on this machine and has ended."""
    host, _, pid = process.rpartition("-")
    if host != _host() or not pid.isdigit() or os.name == "nt":  # Windows: signal 0 would end the process
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname()) or "host"
