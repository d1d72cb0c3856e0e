"""One process at a time in a run folder or a project: a file says who, the kernel's lock on it says whether still.

Taking it needs both: a free lock of the kernel (flock; on Windows of a byte beyond the record, which stays readable),
which a dead process cannot hold, and a record that is absent or stale. The kernel's lock also orders two takers of a
stale record. Over a network file system without locks across machines the record alone speaks: one from another host
counts as live. Readers only look at the record.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from napari_crln.errors import CrlnError, OutOfSpace, RunError
from napari_crln.events import LOCK_FILE
from napari_crln.identity import lives, process_identity

# Each system has one of the two; without either, creation of the file alone guards.
fcntl: Any = None
msvcrt: Any = None
if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


_POLL = 0.02  # seconds between looks at a lock that another holds
_FAR = 1 << 30  # the byte that Windows locks; nobody could read the record if it were locked itself


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Parameters
    ----------
    since : wall clock, ISO 8601, for people
    started : identity of the process among all that ever bore this pid
    """

    pid: int
    host: str
    since: str
    started: str

    def alive(self) -> bool | None:
        """Whether the process lives; None if that cannot be told from this machine."""
        return lives(self.pid, self.started) if self.host == socket.gethostname() else None


def holder(folder: Path, file: str = LOCK_FILE) -> Holder | None:
    """Who the lock of a folder names, live or not; None if nobody or unreadable."""
    try:
        record = json.loads((folder / file).read_text("utf-8"))
        return Holder(int(record["pid"]), str(record["host"]), str(record["since"]), str(record["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Wait for, then hold, a folder against others that ask the same; no guard where there is no flock."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class Lock:
    """Context manager that holds a folder, by default of a run, for this process.

    Parameters
    ----------
    folder : what is held
    file : the lock's file in it
    patience : seconds to wait for another holder
    error, rule : what a refusal is, and says

    Raises
    ------
    RunError, or `error`
        On entry, if a live process holds it, or one on another machine that cannot be asked.
    """

    def __init__(
        self,
        folder: Path,
        file: str = LOCK_FILE,
        *,
        patience: float = 0.0,
        error: type[CrlnError] = RunError,
        rule: str = "one process trains a run at a time",
    ) -> None:
        self.folder = folder
        self._path = folder / file
        self._patience, self._error, self._rule = patience, error, rule
        self._handle: int | None = None

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock, over a dead holder if need be."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._acquire()
            except self._error as refusal:
                cannot_be_locked = refusal.rule != self._rule  # by anybody: waiting is no use
                if cannot_be_locked or time.monotonic() >= deadline:
                    raise
            time.sleep(_POLL)

    def _acquire(self) -> None:
        while self._handle is None:
            try:
                handle, fresh = self._open()
            except OSError as error:
                raise self._unlockable(error) from error
            try:
                self._claim(handle, fresh)
            except OSError as error:
                if fresh:
                    with suppress(PermissionError):  # Windows deletes no open file; an empty one names nobody
                        self._path.unlink(missing_ok=True)
                os.close(handle)
                raise self._unlockable(error) from error
            except BaseException:
                os.close(handle)
                raise

    def release(self) -> None:
        """Give the lock back; nothing if it is not held."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        ours = self._is_current(handle)  # not if someone deleted it by hand, and another took the run
        if msvcrt is None:
            if ours:
                self._path.unlink(
                    missing_ok=True
                )  # while still locked, so nobody takes the old file for held
            os.close(handle)
            return
        # Windows deletes no open file. Emptied, it names nobody, should another look at it and keep it from going.
        os.ftruncate(handle, 0)
        os.close(handle)
        if ours:
            with suppress(PermissionError):
                self._path.unlink(missing_ok=True)

    def _open(self) -> tuple[int, bool]:
        """The lock file, and whether this call made it."""
        while True:
            try:
                return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), True
            except FileExistsError:
                pass
            try:
                return os.open(self._path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)), False
            except FileNotFoundError:
                continue

    def _claim(self, handle: int, fresh: bool) -> None:
        exclusive = self._lock(handle)
        if not self._is_current(handle):  # released, or taken over, between opening and locking
            os.close(handle)
            return
        if not fresh and (not exclusive or self._held()):
            raise self._refusal()
        os.ftruncate(handle, 0)
        os.pwrite(handle, self._record(), 0) if hasattr(os, "pwrite") else os.write(handle, self._record())
        os.fsync(handle)
        self._handle = handle

    def _lock(self, handle: int) -> bool:
        """Whether this handle has the kernel's lock; False where the file system or the system has none."""
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif msvcrt is not None:
                os.lseek(handle, _FAR, os.SEEK_SET)
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
                os.lseek(handle, 0, os.SEEK_SET)
            else:
                return False
        except OSError as error:
            if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
                raise self._refusal() from error
            return False
        return True

    def _is_current(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), self._path.lstat())
        except OSError:  # gone, or on a file system that is away
            return False

    def _held(self) -> bool:
        named = holder(self.folder, self._path.name)
        return named is not None and named.alive() is not False

    def _record(self) -> bytes:
        since = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        me = Holder(os.getpid(), socket.gethostname(), since, process_identity(os.getpid()))
        return json.dumps(asdict(me)).encode()

    def _unlockable(self, error: OSError) -> CrlnError:
        """The folder is gone, read-only, or full."""
        if error.errno in {errno.ENOSPC, getattr(errno, "EDQUOT", None)}:
            needed, free = len(self._record()), shutil.disk_usage(self.folder).free
            return OutOfSpace(
                f"{needed if needed > free else f'more than {free}'} bytes are needed and {free} are free",
                f"a folder is locked, by {self._path.name}, before it is changed",
                "Free some space, then repeat or resume; nothing was changed",
                self.folder,
            )
        return self._error(
            f"{self._path.name} cannot be written ({error.strerror})",
            "a folder is locked before it is changed",
            "Make it writable, or work on a copy; nothing was changed",
            self.folder,
        )

    def _refusal(self) -> CrlnError:
        named = holder(self.folder, self._path.name)
        who = (
            "another process" if named is None else f"process {named.pid} on {named.host} since {named.since}"
        )
        return self._error(
            f"held by {who}",
            self._rule,
            f"Stop it, or if it is gone for sure delete {self._path.name}",
            self.folder,
        )
