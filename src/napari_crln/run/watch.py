"""Watch a run and steer it, from another process or another machine over a shared file system.

The follower remembers only the offset behind the last complete line, and reads from there again. A line
that is still being written is thus never taken, nor joined with what replaces it after a crash. It holds
one block in memory, however long the log. The last bytes before the offset are kept and compared, so that
a log that was cut back or replaced is noticed rather than read from its middle.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from napari_crln import durable
from napari_crln.errors import RunError
from napari_crln.events import (
    EVENTS_FILE,
    INBOX,
    Command,
    Ended,
    Event,
    Warned,
    dump_command,
    parse_event,
)

_BLOCK = 1 << 18
_MARK = 64
_sent = itertools.count()


def follow(
    folder: Path, *, from_start: bool = True, poll_s: float = 0.2, until_ended: bool = False
) -> Generator[Event | None, None, None]:
    """Events of a run as they come; None whenever there is nothing new, so that the caller can give up.

    Parameters
    ----------
    folder : run folder; it and its log may come later, vanish and come back
    from_start : begin with the first event, or with the first one from now on
    poll_s : seconds between looks at an idle log
    until_ended : return after an `Ended` that no later event follows

    A log that cannot be read for a while is waited for, and told by a `Warned` event when it goes and when it is back.
    A complete line that is damaged comes as a `Warned` event of the last step seen. If the log was replaced
    by another, the other is followed from its start.
    """
    tail = Tail(folder / EVENTS_FILE)
    if not from_start:
        tail.skip()
    step, ended, told = 0, False, ""
    while True:
        idle = True
        for line in tail.lines():
            idle = False
            event = _event(line, step)
            if event is not None:
                step, ended = event.step, isinstance(event, Ended)
                yield event
        if idle:
            if ended and until_ended:
                return
            if tail.away != told:
                told = tail.away
                state = f"cannot be read ({told}): waiting for it" if told else "can be read again"
                yield Warned(step=step, message=f"{folder.name} {state}")
            yield None
            time.sleep(poll_s)


def send(folder: Path, command: Command) -> Path:
    """Put a command into a run's inbox, whole or not at all; returns its file.

    Raises
    ------
    RunError
        If there is no such run folder.
    OutOfSpace
        If the disk is full.
    """
    if not folder.is_dir():
        raise RunError("no such run folder", "commands go to a run's inbox", "Check the path", folder)
    inbox = folder / INBOX
    inbox.mkdir(exist_ok=True)
    data = dump_command(command)
    path = inbox / f"{_next_id(inbox):020d}-{os.getpid()}-{next(_sent):06d}.json"
    durable.replace(path, data)
    return path


def _next_id(inbox: Path) -> int:
    """Nanoseconds since 1970, and in any case more than what waits: a clock set back reorders nothing."""
    waiting = [int(file.name[:20]) for file in inbox.glob("*.json") if file.name[:20].isdecimal()]
    return max(time.time_ns(), 1 + max(waiting, default=0))


def _event(line: bytes, step: int) -> Event | None:
    try:
        return parse_event(line)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        return Warned(step=step, message=f"{EVENTS_FILE}: a damaged line after step {step} skipped: {reason}")


class Tail:
    """Complete lines of a growing file, each once.

    Parameters
    ----------
    path : the file; it may not exist yet

    Attributes
    ----------
    away : why a file that could be read before cannot now; "" if it can
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.away = ""
        self._restart()

    def skip(self) -> None:
        """Pass over the lines that are there now."""
        while self._next_block():
            pass

    def lines(self) -> Iterator[bytes]:
        """Lines, without their newline, that were not given before; none if the file cannot be read."""
        while block := self._next_block():
            yield from block.split(b"\n")[:-1]

    def _restart(self) -> None:
        self._offset = 0
        self._head = self._mark = b""  # first bytes of the file, and last ones before the offset

    def _next_block(self) -> bytes:
        """The next whole lines; b"" if there are none."""
        try:
            with self._path.open("rb") as file:
                self._heed_truncation(file)
                block = _whole_lines(file, self._offset)
        except OSError as error:
            self.away = (error.strerror or str(error)) if self._offset else ""
            return b""
        self.away = ""
        self._head = self._head or block[:_MARK]
        self._mark = (self._mark + block)[-_MARK:]
        self._offset += len(block)
        return block

    def _heed_truncation(self, file: BinaryIO) -> None:
        """Another log, or one cut back and grown again, is read anew; one just cut back, from its end."""
        size = os.fstat(file.fileno()).st_size
        if file.read(len(self._head)) != self._head[:size]:
            self._restart()
        elif size < self._offset:
            self._offset = _end_of_lines(file, size)
            self._mark, self._head = b"", self._head[: self._offset]
        elif _read(file, self._offset - len(self._mark), len(self._mark)) != self._mark:
            self._restart()


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)


def _whole_lines(file: BinaryIO, start: int) -> bytes:
    """Up to a block of complete lines, or one line if it is longer than that."""
    size = _BLOCK
    while True:
        block = _read(file, start, size)
        whole = block[: block.rfind(b"\n") + 1]
        if whole or len(block) < size:
            return whole
        size *= 2


def _end_of_lines(file: BinaryIO, size: int) -> int:
    """Offset behind the last newline among the first `size` bytes."""
    end = size
    while end > 0:
        start = max(0, end - _BLOCK)
        newline = _read(file, start, end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
