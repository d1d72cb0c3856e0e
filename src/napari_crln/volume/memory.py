"""Whether an array fits in memory, asked before any is taken.

A few bytes of a header can announce a terabyte. Linux grants such a request and kills the process once it is
used, so what is announced is compared with what there is first. Where the system does not tell, nothing is refused.
"""

from __future__ import annotations

import sys
from pathlib import Path

from napari_crln.errors import OutOfMemory

_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")


def check_memory(needed: int, what: str, remedy: str, where: str | Path | None = None) -> None:
    """Refuse what this process cannot hold.

    Parameters
    ----------
    needed : bytes
    what, remedy : for the message

    Raises
    ------
    OutOfMemory
        With bytes needed and free.
    """
    free = available()
    if free is not None and needed > free:
        raise OutOfMemory(
            f"{what} takes {needed} bytes and {free} are free", "it must fit in memory", remedy, where
        )


def available() -> int | None:
    """Bytes that this process may still take: of the machine's, and of its own limit; None if unknown."""
    known = [bytes_ for bytes_ in (_of_machine(), _of_limit()) if bytes_ is not None]
    return max(0, min(known)) if known else None


def _of_machine() -> int | None:
    """Free memory, what the system can drop, and swap; Linux only."""
    try:
        lines = _MEMINFO.read_text("utf-8").splitlines()
    except OSError:
        return None
    fields = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    if "MemAvailable" not in fields:
        return None
    return 1024 * (fields["MemAvailable"] + fields.get("SwapFree", 0))


def _of_limit() -> int | None:
    """What RLIMIT_AS (`ulimit -v`, many clusters) leaves of the address space; None without a limit."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        taken = int(_STATM.read_text("utf-8").split()[0]) * resource.getpagesize()
    except OSError:
        taken = 0
    return int(limit) - taken
