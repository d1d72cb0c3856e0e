"""How much memory this process may take, and whether an array fits, asked before any is taken.

A few bytes of a header can announce a terabyte. Linux grants such a request and kills the process once it is
used, so what is announced is compared with what there is first. Where the system does not tell, nothing is refused.
Under Slurm and in containers the limit is a control group's (cgroup): whatever the machine has, who exceeds it is killed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from napari_crln.errors import OutOfMemory


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
    free = available(swap=True)
    if free is not None and needed > free:
        raise OutOfMemory(
            f"{what} takes {needed} bytes and {free} are free", "it must fit in memory", remedy, where
        )


def available(*, swap: bool = False, root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take; None if unknown.

    The least of what the machine has, what the control groups of a container or of a cluster's job leave, and what
    its own limit leaves.

    Parameters
    ----------
    swap : count the machine's swap: for what may be slow, and only must not fail
    root : where /proc and /sys are
    """
    known = (_of_machine(root, swap), _of_groups(root), _of_limit(root))
    least = min((free for free in known if free is not None), default=None)
    return None if least is None else max(0, least)


def _of_machine(root: Path, swap: bool) -> int | None:
    """Free memory and what the system can drop."""
    fields = _fields(root / "proc/meminfo")
    if fields is None:
        return _by_psutil(swap)
    if "MemAvailable" not in fields:
        return None
    return 1024 * (fields["MemAvailable"] + (fields.get("SwapFree", 0) if swap else 0))


def _by_psutil(swap: bool) -> int | None:
    """The same where there is no /proc."""
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().available) + (int(psutil.swap_memory().free) if swap else 0)


def _of_groups(root: Path) -> int | None:
    """What the control groups that this process is in, and those around them, leave; None without a limit."""
    known = [_left(group, files) for files, group in _groups(root)]
    return min((left for left in known if left is not None), default=None)


@dataclass(frozen=True)
class _Files:
    """Names in one version of control groups."""

    limits: tuple[str, ...]
    taken: str
    dropped: tuple[str, ...]  # fields of memory.stat: taken, but given up before anything is killed


_V1 = _Files(
    ("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
)
_V2 = _Files(
    ("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file", "slab_reclaimable")
)


def _groups(root: Path) -> Iterator[tuple[_Files, Path]]:
    """Folders of the memory groups, from the own one outward to the mount's."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            files, mount = _V2, mounts / "unified" if (mounts / "unified").is_dir() else mounts
        elif "memory" in controllers.split(","):
            files, mount = _V1, mounts / "memory"
        else:
            continue
        # In a container the path may be the host's, and the mount its own group: then the latter alone is there.
        names = [name for name in path.split("/") if name not in ("", "..")]
        for depth in range(len(names), -1, -1):
            yield files, mount.joinpath(*names[:depth])


def _left(group: Path, files: _Files) -> int | None:
    limits = [limit for name in files.limits if (limit := _number(group / name)) is not None]
    taken = _number(group / files.taken)
    if not limits or taken is None:
        return None
    stat = _fields(group / "memory.stat") or {}
    return min(limits) - taken + sum(stat.get(name, 0) for name in files.dropped)


def _number(path: Path) -> int | None:
    """Content of a file of one number; None for `max`, and where there is no such file."""
    try:
        return int(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _fields(path: Path) -> dict[str, int] | None:
    """Lines `name: number unit` or `name number`; None where there is no such file."""
    try:
        lines = [line.replace(":", " ").split() for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return None
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def _of_limit(root: Path) -> int | None:
    """What RLIMIT_AS (`ulimit -v`, many clusters) leaves of the address space; None without a limit."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        taken = int((root / "proc/self/statm").read_text("utf-8").split()[0]) * resource.getpagesize()
    except OSError:
        taken = 0
    return int(limit) - taken
