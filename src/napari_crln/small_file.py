"""Reading a file that is small by its nature, whatever a stranger has put in its place."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_small(path: Path, limit: int) -> bytes:
    """Bytes of a regular file; never waits, as for a pipe, nor follows a link, nor takes more than `limit` bytes.

    Raises
    ------
    ValueError
        If it is a link, a pipe, a device or a folder, or has more than `limit` bytes.
    OSError
        If it cannot be read.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{path.name} is no regular file")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path.name} has more than {limit} bytes")
    return data
