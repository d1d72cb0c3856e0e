"""Which live maps to read next, and dropping what comes too late. No Qt, no napari.

One read at a time. A read is asked for when something wanted has changed, or a newer generation has come, and the
throttle is ready; so generations that come faster than they can be drawn are skipped, and the last is always
drawn. What an update takes is its parts and the redraws of the canvas after them, as told by how late the next tick comes:
where drawing is slow (3D without a GPU), updates are rarer, and drawn in one go. A reply to a question that is no longer asked (another volume, class, run or generation) is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_crln.gui.background import Background
from napari_crln.gui.live_maps import BY_KEY
from napari_crln.gui.model import Snapshot
from napari_crln.gui.throttle import Throttle
from napari_crln.previews import AnchorRecord, Quantisation
from napari_crln.run.preview import Preview, PreviewGone, PreviewReader
from napari_crln.types import ShapeDHW


@dataclass(frozen=True)
class Wanted:
    """A question: these maps of this volume.

    Parameters
    ----------
    generations : those of the volume, newest first; the first that still exists is shown
    """

    folder: Path
    volume: str
    generations: tuple[int, ...]
    keys: frozenset[str]
    class_index: int

    def same_picture(self, other: Wanted | None) -> bool:
        """Whether only the generation differs, so that a partial map may be laid over the other's."""
        return other is not None and (self.folder, self.volume, self.class_index) == (
            other.folder,
            other.volume,
            other.class_index,
        )


@dataclass(frozen=True, eq=False)
class MapPicture:
    """One map of the whole volume, (D, H, W) as stored; nobody writes into it any more."""

    stored: NDArray[np.uint8]
    quantisation: Quantisation


@dataclass(frozen=True, eq=False)
class Frame:
    """The answer: maps of one generation; of maps with a value a class, those of `class_index`.

    Parameters
    ----------
    generation : 0 of a blank frame, which no run made
    prototype : whose score the similarity is, from 1; 0: the largest
    run : folder of the run that made them
    """

    volume: str
    generation: int
    step: int
    shape: ShapeDHW
    maps: dict[str, MapPicture] = field(default_factory=dict)
    anchors: AnchorRecord | None = None
    class_index: int = 1
    prototype: int = 0
    run: Path | None = None


def wanted(now: Snapshot, visible: frozenset[str]) -> Wanted | None:
    """What the viewer should show by a snapshot; None if nothing.

    Parameters
    ----------
    visible : keys of the live layers that are not hidden; only these are worth reading
    """
    if now.run.folder is None or not now.shown:
        return None
    chosen = now.live.generation
    own = [p.generation for p in now.run.previews if p.volume == now.shown and p.kept]
    usable = tuple(g for g in reversed(own) if chosen is None or g <= chosen)
    keys = (now.live.shown & visible) - now.live.edited
    return Wanted(now.run.folder, now.shown, usable, keys, now.live.class_index) if usable and keys else None


def read_frame(question: Wanted, before: Frame | None) -> Frame | None:
    """Read the newest generation asked for; maps of a part of the volume are laid over those before.

    Parameters
    ----------
    before : an older frame of the same picture
    """
    reader = PreviewReader(question.folder)
    for index, generation in enumerate(question.generations):
        try:
            preview = reader.read(generation)
            maps = question.keys & frozenset(preview.maps)
            base = None if preview.record.is_whole else _base(reader, question, index, before, maps)
            return _frame(preview, question, base)
        except PreviewGone:
            continue
    return None


def _base(
    reader: PreviewReader, question: Wanted, index: int, before: Frame | None, maps: frozenset[str]
) -> Frame | None:
    """What lies under partial `maps`: the frame before, or the last whole generation that still exists."""
    newest = question.generations[index]
    if before is not None and before.generation <= newest and maps <= before.maps.keys():
        return before
    for generation in question.generations[index + 1 :]:
        try:
            preview = reader.read(generation)
            if preview.record.is_whole:
                return _frame(preview, question, None)
        except PreviewGone:
            return None
    return None


def _frame(preview: Preview, question: Wanted, base: Frame | None) -> Frame:
    record = preview.record
    maps = {}
    for key in sorted(question.keys & set(preview.maps)):
        quantisation = record.maps[key]
        under = base.maps.get(key) if base is not None and base.shape == record.shape else None
        stored = _empty(record.shape, quantisation, key) if under is None else _restored(under, quantisation)
        preview.paste(key, stored, question.class_index)
        maps[key] = MapPicture(stored, quantisation)
    return Frame(
        record.volume, record.generation, record.step, record.shape, maps, record.anchors, question.class_index,
        record.prototype, question.folder,
    )  # fmt: skip


def blank(frame: Frame, volume: str, shape: ShapeDHW, scales: Mapping[str, Quantisation]) -> Frame:
    """Maps, in the scales that they are shown in, of a volume or run of which nothing is known yet; else like a frame."""
    maps = {key: MapPicture(_empty(shape, scale, key), scale) for key, scale in scales.items()}
    return Frame(volume, 0, 0, shape, maps, None, frame.class_index, frame.prototype)


def _empty(shape: ShapeDHW, quantisation: Quantisation, key: str) -> NDArray[np.uint8]:
    """A map that knows nothing: background, or the value nearest to 0."""
    stored = 0 if BY_KEY[key].kind == "labels" else int(quantisation.quantise(np.zeros(1))[0])
    return np.full(shape, stored, np.uint8)


def _restored(under: MapPicture, quantisation: Quantisation) -> NDArray[np.uint8]:
    """A copy of a map, in another scale if need be."""
    old, new = under.quantisation, quantisation
    if (old.scale, old.offset) == (new.scale, new.offset):
        return under.stored.copy()
    return new.quantise(old.values(np.arange(256, dtype=np.uint8)))[under.stored]


_DONE: Iterator[None] = iter(())
#: The panel's timer, s.
TICK_S = 0.05
_SLOW_REDRAW_S = 0.1  # of the canvas: then all layers are drawn at once, not each with a redraw of its own
_LONGEST_REDRAW_S = 10.0  # what takes longer is no redraw: the machine slept


class PreviewFeed:
    """Asks for frames and hands them on.

    Parameters
    ----------
    show : draws a frame, a part at each `tick`; the time of all parts is what the throttle goes by
    held : whether nothing may be drawn now; what came meanwhile is read again after
    """

    def __init__(
        self,
        background: Background,
        show: Callable[[Frame], Iterator[None]],
        failed: Callable[[Exception], None],
        throttle: Throttle | None = None,
        held: Callable[[], bool] = lambda: False,
    ) -> None:
        self._held = held
        self.throttle = throttle or Throttle()
        self._background = background
        self._show = show
        self._failed = failed
        self._asked: Wanted | None = None
        self._shown: Wanted | None = None
        self._frame: Frame | None = None
        self._frame_of: Wanted | None = None
        self._wanted: Wanted | None = None
        self._drawing: Iterator[None] = _DONE
        self._drawn_at: float | None = None  # until the canvas has had its time
        self._redraw_s = 0.0

    @property
    def idle(self) -> bool:
        """Whether all that is wanted has been drawn."""
        return self._asked is None and self._drawing is _DONE and self._wanted in (None, self._shown)

    def want(self, question: Wanted | None) -> None:
        """Say what should be seen; read at the next `tick` that may."""
        self._wanted = question

    def forget(self) -> None:
        """Draw anew even what was drawn: a layer has come or gone."""
        self._shown = None

    def tick(self) -> None:
        """Draw the next part, or read if something is to be drawn and the throttle allows; call it again and again."""
        self._note_redraw()
        if self._held():
            return
        if self._drawing is not _DONE:
            self._draw_part(continued=True)
            while self._redraw_s > _SLOW_REDRAW_S and self._drawing is not _DONE:
                self._draw_part(continued=True)
            return
        question = self._wanted
        if question is None or question == self._shown or self._asked is not None:
            return
        if not (self.throttle.ready_at_once if self._is_urgent(question) else self.throttle.ready):
            return
        self._asked = question
        before = self._frame if question.same_picture(self._frame_of) else None
        self._background.run(
            partial(read_frame, question, before),
            partial(self._answered, question),
            self._not_answered,
        )

    def _answered(self, question: Wanted, frame: Frame | None) -> None:
        self._asked = None
        current = self._wanted
        if current is None or not question.same_picture(current) or question.keys != current.keys:
            return  # asked for something else meanwhile
        if self._held():
            return  # asked again when it may be drawn
        self._shown = question
        if frame is not None:
            self._frame, self._frame_of = frame, question
            self._drawing = self._show(frame)
            self._draw_part(continued=False)

    def _draw_part(self, continued: bool) -> None:
        try:
            self.throttle.timed(partial(next, self._drawing), continued=continued)
        except StopIteration:
            self._drawing = _DONE
        self._drawn_at = self.throttle.now()

    def _note_redraw(self) -> None:
        """The first tick after a part is as late as the canvas took to draw it."""
        if self._drawn_at is not None:
            self._redraw_s = self.throttle.now() - self._drawn_at - TICK_S
            self._drawn_at = None
            if self._redraw_s > 0:
                self.throttle.add(min(self._redraw_s, _LONGEST_REDRAW_S))

    def _is_urgent(self, question: Wanted) -> bool:
        """Whether the user has asked for something else; not so for a newer generation of the same."""
        seen = self._shown
        if seen is None or not question.same_picture(seen) or question.keys != seen.keys:
            return True
        return question.generations[0] < seen.generations[0]

    def _not_answered(self, error: Exception) -> None:
        self._asked, self._shown = None, self._wanted
        self._failed(error)
