"""What tells a process from an earlier one that bore its pid: when it started.

Linux writes the boot and the clock ticks since then, read from /proc, as locks have them from the first version on.
Elsewhere psutil tells the time of creation; it is imported there only, so that Linux needs no more than itself.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

#: Of a process that lives where the system does not tell since when.
UNKNOWN = "?"
_LINUX = sys.platform == "linux"
_BOOT = re.compile(r"[0-9a-f-]{36}:\d+")  # as /proc has it
_CREATED = re.compile(r"created (\d{1,12}\.\d+)")  # as psutil has it: seconds since 1970, UTC
_LEEWAY = 2.0  # seconds: where a clock is set right, times of creation move with it


def process_identity(pid: int) -> str:
    """Text that no other process of this machine has; "" if it is dead, UNKNOWN if that cannot be told."""
    return identity_by_proc(pid) if _LINUX else identity_by_psutil(pid)


def lives(pid: int, recorded: str) -> bool | None:
    """Whether the process that had this identity lives; None if that cannot be told.

    Parameters
    ----------
    recorded : of `process_identity`, maybe of an earlier version's, or of the other system on this machine
    """
    foreign = _CREATED if _LINUX else _BOOT
    now = process_identity(pid)
    if now == UNKNOWN or foreign.fullmatch(recorded):  # Windows and the Linux inside it have one host name
        return None
    if _LINUX or not now:
        return bool(now) and now == recorded
    then, created = _CREATED.fullmatch(recorded), _CREATED.fullmatch(now)
    if then is None or created is None:  # earlier versions wrote local time here, or nothing
        return None
    return abs(float(then[1]) - float(created[1])) < _LEEWAY


def identity_by_proc(pid: int) -> str:
    """`process_identity` on Linux; zombies are dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    except OSError:
        return "" if Path("/proc/self/stat").exists() else UNKNOWN
    return "" if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def identity_by_psutil(pid: int) -> str:
    """`process_identity` on macOS and Windows; the same in every time zone and language."""
    import psutil

    try:
        process = psutil.Process(pid)
        created = process.create_time()
        dead = sys.platform != "win32" and process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except (psutil.NoSuchProcess, ValueError, OverflowError):  # the others: a number that is no pid
        return ""
    except psutil.AccessDenied:
        return UNKNOWN
    return "" if dead else f"created {created:.2f}"
