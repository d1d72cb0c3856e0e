"""What locks see of macOS and Windows, on Linux: psutil's identities, and a module like Windows' msvcrt."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from typing import Any

from napari_crln import identity, lock

Set = Callable[[Any, str, Any], object]


class Msvcrt:
    """As msvcrt locks bytes: at the file's position, refused by EACCES; never those of the record."""

    LK_NBLCK = 2

    @staticmethod
    def locking(handle: int, mode: int, count: int) -> None:
        assert (mode, count) == (Msvcrt.LK_NBLCK, 1)
        assert os.lseek(handle, 0, os.SEEK_CUR) > 4096
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(13, "Permission denied") from error


def macos(set_attribute: Set) -> None:
    """No /proc."""
    set_attribute(identity, "_LINUX", False)


def windows(set_attribute: Set) -> None:
    """No /proc, and no flock."""
    macos(set_attribute)
    set_attribute(lock, "fcntl", None)
    set_attribute(lock, "msvcrt", Msvcrt)
