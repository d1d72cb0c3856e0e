"""The engine's side of the run folder: it writes events, takes commands, heeds signals, holds the lock.

Events are appended by one write each, so a reader sees whole lines; what a crash left of a last line is
cut off when the log is opened again. A command stays in the inbox until it has been acted on. A signal
only sets a flag: the loop ends with a checkpoint after its step.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from napari_crln import durable
from napari_crln.engine.failpoint import failpoint
from napari_crln.events import (
    EVENTS_FILE,
    INBOX,
    REFUSED,
    Command,
    Event,
    Pause,
    Resume,
    Stop,
    dump_line,
    parse_command,
)
from napari_crln.lock import Lock

__all__ = ["EventLog", "Inbox", "Interrupts", "Lock"]

_BLOCK = 1 << 16
#: Largest command file, bytes.
COMMAND_LIMIT = 64 * 1024


class EventLog:
    """Appends to the `events.jsonl` of a run folder.

    Parameters
    ----------
    folder : run folder; the log is made if missing, and freed of a torn last line if not

    Attributes
    ----------
    repaired : bytes of a torn last line that opening cut off
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / EVENTS_FILE
        self._handle = self._open(os.O_CREAT)
        self.repaired = self._cut_torn_line()

    def reopen(self) -> None:
        """Open the log anew, which must be there: after a file system was away, an open file may be dead."""
        former, self._handle = self._handle, self._open(0)
        with contextlib.suppress(OSError):
            os.close(former)
        self._cut_torn_line()

    def append(self, event: Event) -> None:
        """Write one event, its `time` set to now.

        Raises
        ------
        OutOfSpace
            If the disk is full; no part of the line stays.
        """
        line = dump_line(event.model_copy(update={"time": time.time()}))
        with durable.space_for(self._path.parent, len(line)):
            self._write(line)

    def sync(self) -> None:
        """Bring what was appended to the disk."""
        os.fsync(self._handle)

    def close(self) -> None:
        os.close(self._handle)

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, extra: int) -> int:
        flags = os.O_RDWR | os.O_APPEND | extra | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        return os.open(self._path, flags, 0o644)

    def _write(self, line: bytes) -> None:
        before = os.fstat(self._handle).st_size
        failpoint("events:append")
        try:
            if os.write(self._handle, line) < len(line):
                raise OSError(errno.ENOSPC, "the line did not fit")
        except OSError:
            with contextlib.suppress(OSError):  # the first fault is the one to tell
                os.ftruncate(self._handle, before)
            raise

    def _cut_torn_line(self) -> int:
        size = os.fstat(self._handle).st_size
        whole = end_of_lines(self._handle, size)
        if whole < size:
            os.ftruncate(self._handle, whole)
        return size - whole


def end_of_lines(handle: int, size: int) -> int:
    """Offset after the last newline among the first `size` bytes; 0 if there is none."""
    end = size
    while end > 0:
        start = max(0, end - _BLOCK)
        os.lseek(handle, start, os.SEEK_SET)
        newline = os.read(handle, end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


class Inbox:
    """Commands that watchers and shells put into the run folder.

    A command's file is deleted by `done`, or by the next `poll`: so one that a crash kept from being acted
    on is not lost. What is no command is moved to `inbox/refused/`, unread if it is not a small regular file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / INBOX
        self._folder.mkdir(exist_ok=True)
        self._taken: set[str] = set()
        self._warnings: list[str] = []

    def poll(self) -> list[Command]:
        """New commands in name order; each is returned once."""
        self.done()
        commands = [self._take(name) for name in sorted(self._names())]
        return [command for command in commands if command is not None]

    def done(self) -> None:
        """Delete the files of the commands that `poll` has returned."""
        for name in list(self._taken):
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError:  # kept in `_taken`, so that it is not obeyed twice
                continue
            self._taken.discard(name)

    def warnings(self) -> list[str]:
        """What was refused since the last call, one message each, for `Warned` events."""
        told, self._warnings = self._warnings, []
        return told

    def drop_stale(self) -> None:
        """Before the first step: drop pause, resume and stop that were meant for an earlier process."""
        for name in sorted(self._names()):
            command = self._take(name)
            self._taken.discard(name)
            if isinstance(command, Pause | Resume | Stop):
                (self._folder / name).unlink(missing_ok=True)
                self._warnings.append(f"dropped {command.command!r} ({name}), sent before this start")

    def _names(self) -> list[str]:
        """Entries to look at; dot files are being written, and `refused` has been dealt with."""
        try:
            with os.scandir(self._folder) as entries:
                return [
                    e.name
                    for e in entries
                    if not e.name.startswith(".") and e.name not in self._taken and e.name != REFUSED
                ]
        except OSError:  # not there, or on a file system that is away: no commands for now
            return []

    def _take(self, name: str) -> Command | None:
        path = self._folder / name
        try:
            command = parse_command(_read_small(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._refuse(path, str(error).splitlines()[0])
            return None
        self._taken.add(name)
        return command

    def _refuse(self, path: Path, reason: str) -> None:
        refused = self._folder / REFUSED
        try:
            refused.mkdir(exist_ok=True)
            path.rename(_free_name(refused, path.name))
        except OSError as error:
            self._taken.add(path.name)  # reported once, not at every poll
            reason = f"{reason}; it could not be moved away ({error.strerror})"
        self._warnings.append(f"refused {INBOX}/{path.name}: {reason}")


def _read_small(path: Path) -> bytes:
    """Bytes of a command file; raises ValueError, without opening it, for what cannot be one."""
    status = path.lstat()
    if path.suffix != ".json" or not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular .json file")
    if status.st_size > COMMAND_LIMIT:
        raise ValueError(f"{status.st_size} bytes; a command has at most {COMMAND_LIMIT}")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        return file.read(COMMAND_LIMIT)


def _free_name(folder: Path, name: str) -> Path:
    """A name in the folder that nothing bears: `name`, or `name.2`, ….

    Only the engine, under the run's lock, puts entries there.
    """
    target, count = folder / name, 2
    while os.path.lexists(target):
        target, count = folder / f"{name}.{count}", count + 1
    return target


class Interrupts:
    """Context manager that turns SIGTERM, SIGINT and SIGUSR1 into a wish to stop.

    A second SIGINT raises KeyboardInterrupt at once. Outside the main thread, where Python allows no
    handlers, it does nothing.

    Attributes
    ----------
    signal_name : which signal asked, None if none has
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._interrupted = False
        self._former: dict[int, Any] = {}

    @property
    def stop_requested(self) -> bool:
        return self.signal_name is not None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
                if hasattr(signal, name):
                    number = getattr(signal, name)
                    self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former.clear()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        self.signal_name = signal.Signals(number).name
