"""Saves what is painted on one array, while it is painted on. No Qt, no napari.

What differs from the last saved copy is what is saved: so an undo is saved like a stroke, whatever told of it, and
nothing has to be known of how napari paints. Saving begins 0.3 s after the last change, or 1 s after the first
one that waits, in a thread, one at a time; a part of a stroke may be saved, the rest follows. A save that fails
(another process holds the annotation, the disk is full) is tried again, and nothing is forgotten meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.errors import CrlnError, GridMismatch
from napari_crln.gui.background import Background
from napari_crln.types import AnnotationDHW
from napari_crln.volume import annotation, blank
from napari_crln.volume.annotate import Saved, save_region
from napari_crln.volume.annotation import Box
from napari_crln.volume.editing import holding
from napari_crln.volume.project import Project

#: Seconds without a change after which is saved, and at most after the first change.
QUIET_S, LONGEST_S = 0.3, 1.0
#: Seconds before a save that failed is tried again.
RETRY_S = 3.0


@dataclass(frozen=True)
class SaveState:
    """How far an annotation is saved.

    Parameters
    ----------
    revision : of the last save, or as it was opened
    pending : whether something painted may not be saved yet
    saved : what the last save came to; None before the first
    outdated : whether another process, or another part of this one, wrote it too: the array lacks that
    error : why the last save failed; "" if it did not
    """

    revision: int
    pending: bool = False
    saved: Saved | None = None
    outdated: bool = False
    error: str = ""


class AnnotationSaver:
    """Keeps a stored annotation equal to an array that somebody paints on.

    Parameters
    ----------
    project, volume : whose annotation
    painted : gives the array, (D, H, W); it is read, never written
    revision : that the array was read at; 0 for an empty one
    stored : what is stored, in memory of its own: kept, and changed with each save
    background : does the saving
    told : called on the thread of `touch` when the state changes
    clock : seconds
    """

    def __init__(
        self,
        project: Path,
        volume: str,
        painted: Callable[[], Any],
        revision: int,
        stored: AnnotationDHW,
        background: Background,
        told: Callable[[SaveState], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._project, self._volume = project, volume
        self._path = Project.open(project).volume_path(volume)
        self._painted, self._background, self._told, self._clock = painted, background, told, clock
        self._copy = stored
        self.state = SaveState(revision)
        self._turn = threading.Lock()  # one save at a time; the last one may come from `close`
        self._hold = ExitStack()
        self._held = self._busy = self._closed = self._over = False
        self._touched_at = self._dirty_since = -float("inf")
        self._not_before = -float("inf")
        self._dirty = self._is_painted = False

    def touch(self, *, painted: bool = True) -> None:
        """Something was painted, or (not `painted`) may have been: undone, redone, or merely drawn anew."""
        self._touched_at = self._clock()
        if not self._dirty:
            self._dirty, self._dirty_since = True, self._touched_at
        self._is_painted = self._is_painted or painted
        if painted and not self.state.pending:
            self._tell(replace(self.state, pending=True))

    def prepare(self) -> None:
        """Somebody is about to paint: make ready what the first stroke on a volume needs, so that it is saved as quickly as any."""
        if self.state.revision == 0 and not self._closed:
            self._background.run(self._prepare, lambda _: None, lambda _: None)  # saving tells what is wrong

    def tick(self) -> None:
        """Begin to save if it is time; call it again and again."""
        now = self._clock()
        due = now - self._touched_at >= QUIET_S or now - self._dirty_since >= LONGEST_S
        if self._dirty and due and now >= self._not_before:
            self.save()

    def save(self) -> None:
        """Begin to save what differs; nothing while a save is under way."""
        if self._busy or self._closed:
            return
        self._busy, self._dirty, self._is_painted = True, False, False
        self._background.run(self._save_guarded, self._saved, self._failed)

    def let_go(self) -> None:
        """Save what is left, and let other processes write the annotation until something is painted again."""
        self._dirty = self._is_painted = False
        self._background.run(self._finish, self._saved, self._failed)

    def close(self) -> SaveState:
        """Save what is left, now, and end; the array is not looked at any more."""
        if not self._closed:
            self._closed, self._dirty, self._is_painted = True, False, False
            try:
                self._take(self._finish(last=True))
            except (CrlnError, OSError) as error:
                self.state = replace(self.state, pending=True, error=str(error))
                self._hold.close()
        return self.state

    def _prepare(self) -> None:
        with self._turn:
            if not self._over:
                blank.prepare(Project.open(self._project).volume(self._volume))

    def _finish(self, *, last: bool = False) -> list[Saved]:
        """Save what is left; `last` is that of `close`: one that `let_go` began may run meanwhile, and knows no later stroke."""
        saved = self._save_guarded()
        with self._turn:
            blank.discard(self._path)
            self._held, self._over = False, self._over or last
            self._hold.close()
        return saved

    def _save_guarded(self) -> list[Saved]:
        """Save every box that differs; in a thread."""
        with self._turn:
            done: list[Saved] = []
            if self._over:  # begun before the end, and late
                return done
            array = np.asarray(self._painted())
            if array.shape != self._copy.shape:
                raise _reshaped(self._volume, array.shape, self._copy.shape)
            for box in changed_boxes(array, self._copy):
                done.append(self._save_box(array, box))
            if done:
                annotation.settle(self._path)
            return done

    def _save_box(self, array: NDArray[Any], box: Box) -> Saved:
        where = tuple(slice(*span) for span in box)
        values = array[where].copy()  # whoever paints meanwhile is saved next time
        differs = values != self._copy[where]
        self._take_hold()
        start = (box[0][0], box[1][0], box[2][0])
        saved = save_region(self._project, self._volume, start, _unsigned(values), differs, tidy=False)
        self._copy[where] = values
        return saved

    def _take_hold(self) -> None:
        """Keep other processes from writing it, from the first stroke on."""
        if not self._held:
            self._hold.enter_context(holding(self._path))
            self._held = True

    def _saved(self, done: list[Saved]) -> None:
        self._busy = False
        before = self.state
        if not self._closed:
            self._take(done)
            if done or self.state != before:
                self._told(self.state)

    def _take(self, done: list[Saved]) -> None:
        if not done:
            self.state = replace(self.state, pending=self._is_painted, error="")
            return
        count = done[-1].revision - self.state.revision
        outdated = self.state.outdated or count > len(done)
        self.state = SaveState(done[-1].revision, self._is_painted, done[-1], outdated)

    def _failed(self, error: Exception) -> None:
        self._busy, self._dirty, self._is_painted = False, True, True
        self._not_before = self._clock() + RETRY_S
        self._tell(replace(self.state, pending=True, error=str(error)))

    def _tell(self, state: SaveState) -> None:
        if state != self.state:
            self.state = state
            self._told(state)


def changed_boxes(one: NDArray[Any], other: NDArray[Any]) -> Iterator[Box]:
    """Boxes that hold all voxels in which two arrays (D, H, W) differ: one for each run of planes."""
    planes = [d for d in range(len(one)) if not np.array_equal(one[d], other[d])]
    breaks = [i for i in range(1, len(planes)) if planes[i] != planes[i - 1] + 1]
    for first, last in zip([0, *breaks], [*breaks, len(planes)], strict=True):
        if first == last:
            return
        start, stop = planes[first], planes[last - 1] + 1
        differs = (one[start:stop] != other[start:stop]).any(0)
        rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
        if rows.size:
            yield (start, stop), (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def _unsigned(values: NDArray[Any]) -> AnnotationDHW:
    """In an unsigned dtype; negative values become large ones, which are refused."""
    return values if values.dtype.kind == "u" else values.astype(f"u{values.dtype.itemsize}")


def _reshaped(volume: str, shape: tuple[int, ...], was: tuple[int, ...]) -> GridMismatch:
    return GridMismatch(
        f"the annotation layer is {shape} now",
        f"its volume has {was} (D, H, W)",
        "Undo what reshaped it: it is not saved like this",
        volume,
    )
