"""Writing to a run folder that may be away for a while, as one on a network share.

A write that fails as if the file system were gone is tried again for some minutes; whatever else fails, such as a full
disk, fails at once. Where the folder stays away, the state is saved on this machine, so that no training is lost, and
the run ends. Nothing is ever written to the folder's empty mount point: the run folder itself is never made here.
"""

from __future__ import annotations

import errno
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from napari_crln.engine import checkpoint
from napari_crln.engine.checkpoint import Snapshot
from napari_crln.errors import RunError

#: Seconds that a file system may be away.
PATIENCE_S = 300.0
_PAUSES_S = (0.1, 2.0)  # between attempts: the first, the longest
_AWAY = {
    getattr(errno, name)
    for name in (
        "EIO", "ENOENT", "ENOTDIR", "ENODEV", "ENXIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH",
        "ENETDOWN", "ENETUNREACH", "EREMOTEIO", "ECONNRESET", "EBADF",
    )
    if hasattr(errno, name)
}  # fmt: skip

_Made = TypeVar("_Made")


class Patience:
    """Tries writes to a run folder again while it is away.

    Parameters
    ----------
    folder : of the run
    snapshot : the state to save elsewhere when patience ends; None where there is nothing worth it

    Attributes
    ----------
    hurried : asked between attempts; true ends the waiting, as a signal does
    """

    def __init__(self, folder: Path, snapshot: Callable[[], Snapshot | None]) -> None:
        self._folder, self._snapshot = folder, snapshot
        self._spent = False
        self.hurried: Callable[[], bool] = lambda: False

    def __call__(self, write: Callable[[], _Made], again: Callable[[], None] = lambda: None) -> _Made:
        """What `write` returns, once it succeeds.

        Parameters
        ----------
        again : called before each further attempt, such as to open a file anew

        Raises
        ------
        RunError
            If the folder stays away; it says where the state was saved.
        OSError
            Whatever is no sign of a file system that is away.
        """
        deadline, pause = time.monotonic() + PATIENCE_S, _PAUSES_S[0]
        attempt: Callable[[], _Made] = write
        while True:
            try:
                return attempt()
            except OSError as error:
                if error.errno not in _AWAY:
                    raise
                if self._spent or self.hurried() or time.monotonic() > deadline:
                    raise self._lost(error) from error
            time.sleep(pause)
            pause = min(2 * pause, _PAUSES_S[1])
            attempt = _after(again, write)

    def _lost(self, error: OSError) -> RunError:
        """The end of patience; the state is saved once."""
        rescued = None if self._spent else self._rescued()
        self._spent = True
        remedy = "Resume when it is back" if rescued is None else _remedy(rescued)
        return RunError(
            f"the run folder is away ({error.strerror})",
            "events and checkpoints go there",
            remedy,
            self._folder,
        )

    def _rescued(self) -> Path | None:
        snapshot = self._snapshot()
        if snapshot is None:
            return None
        folder = Path(tempfile.mkdtemp(prefix=f"napari-crln-{self._folder.name}-"))
        return checkpoint.save(folder, snapshot, keep=1)


def _after(again: Callable[[], None], write: Callable[[], _Made]) -> Callable[[], _Made]:
    def attempt() -> _Made:
        again()
        return write()

    return attempt


def _remedy(rescued: Path) -> str:
    return f"The state is saved in {rescued}: when the run folder is back, move that into its checkpoints/ and resume"
