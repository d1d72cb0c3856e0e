"""Descendants of a process: helpers in sessions of their own (torchrun's workers) escape a group's signal."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from napari_crln.identity import UNKNOWN, process_identity


def descendants(pid: int) -> list[tuple[int, str]]:
    """Pid and identity of all children, grandchildren, …; POSIX."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found, unseen = [], list(children.get(pid, []))
    while unseen:
        found.append(unseen.pop())
        unseen += children.get(found[-1], [])
    return [(child, process_identity(child)) for child in found]


def kill(processes: list[tuple[int, str]]) -> None:
    """Kill those that still are who they were."""
    for pid, identity in processes:
        if identity not in {"", UNKNOWN} and process_identity(pid) == identity:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _parents() -> list[tuple[int, int]]:
    """(pid, parent's pid) of every process: from /proc, or from ps where there is none."""
    if Path("/proc/self/stat").exists():
        return [pair for path in Path("/proc").iterdir() if path.name.isdecimal() for pair in _by_proc(path)]
    reply = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False)
    pairs = [line.split() for line in reply.stdout.splitlines()]
    return [(int(pair[0]), int(pair[1])) for pair in pairs if len(pair) == 2]


def _by_proc(process: Path) -> list[tuple[int, int]]:
    try:
        fields = (process / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:  # it has ended
        return []
    return [(int(process.name), int(fields[1]))]
