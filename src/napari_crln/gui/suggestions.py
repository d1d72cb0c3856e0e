"""What the panel knows of the slices worth labelling: the list that the watched run keeps, and a small picture of each.

No Qt and no napari. Files are read in the background: the list whenever the run has replaced it, pictures one after the
other, those that are known already not again. What comes late, for another run or an older list, is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_crln.gui.background import Background
from napari_crln.gui.model import PanelModel
from napari_crln.run.suggestions import read_suggestions, stamp
from napari_crln.suggestions import Suggestion, Suggestions
from napari_crln.volume.project import Project

#: Longest side of a picture, pixels.
PICTURE = 56
_DARK, _BRIGHT = 1, 99.5  # percentiles shown as black and white

Stamp = tuple[int, int] | None


@dataclass(frozen=True)
class Place:
    """A slice of a volume: its index across an axis (0, 1, 2 = D, H, W)."""

    volume: str
    axis: int
    index: int

    @classmethod
    def of(cls, suggestion: Suggestion) -> Place:
        """Where a suggestion lies."""
        return cls(suggestion.volume, suggestion.axis, suggestion.index)


class _Read(NamedTuple):
    folder: Path
    stamp: Stamp
    found: Suggestions | None


class SuggestionFeed:
    """Keeps the model's suggestions those of the watched run; call `tick` about once a second.

    Parameters
    ----------
    model : gets `suggestions`
    background : reads files
    """

    #: The picture of a place has come.
    pictured = Signal(object)

    def __init__(self, model: PanelModel, background: Background) -> None:
        self._model, self._background = model, background
        self.pictures: dict[Place, NDArray[np.uint8]] = {}
        self._reading = False
        self._folder: Path | None = None
        self._stamp: Stamp = None
        self._project: Path | None = None
        self._end_pictures: Callable[[], None] | None = None

    def tick(self) -> None:
        """Look whether there is a newer list."""
        now = self._model.snapshot
        if now.run.folder != self._folder:
            self._folder, self._stamp = now.run.folder, None
            self._model.update(suggestions=None)
        if now.project is not None and now.project.path != self._project:
            self._project = now.project.path
            self.pictures.clear()
        if self._folder is not None and not self._reading:
            self._reading = True
            self._background.run(partial(_read, self._folder, self._stamp), self._took, self._failed)

    def _took(self, read: _Read | None) -> None:
        self._reading = False
        if read is None or read.folder != self._folder:
            return
        self._stamp = read.stamp
        self._model.update(suggestions=read.found)
        if read.found is not None and self._project is not None:
            self._draw([Place.of(item) for item in read.found.items], self._project)

    def _draw(self, places: list[Place], project: Path) -> None:
        """Make the pictures that are missing; drop those of slices that are no longer listed."""
        self.pictures = {place: p for place, p in self.pictures.items() if place in places}
        if self._end_pictures is not None:
            self._end_pictures()
        missing = [place for place in places if place not in self.pictures]
        self._end_pictures = self._background.stream(
            lambda: _pictures(project, missing), partial(self._pictured, project), lambda: None, self._failed
        )

    def _pictured(self, project: Path, made: tuple[Place, NDArray[np.uint8]]) -> None:
        if project == self._project:
            place, picture = made
            self.pictures[place] = picture
            self.pictured.emit(place)

    def _failed(self, error: Exception) -> None:
        self._reading = False
        if self._folder is not None:  # told once: the damaged file is not read again
            self._stamp = stamp(self._folder)
        self._model.say(str(error), "warning")


def picture(project: Project, place: Place) -> NDArray[np.uint8]:
    """A slice in grey, in true proportions, its longer side `PICTURE` pixels, (h, w) uint8."""
    volume = project.volume(place.volume)
    plane = (slice(None),) * place.axis + (place.index,)
    pixels = np.asarray(volume.image[plane], dtype=np.float32)
    height_mm, width_mm = (s for axis, s in enumerate(volume.grid.spacing) if axis != place.axis)
    sides = pixels.shape[0] * height_mm, pixels.shape[1] * width_mm
    rows, columns = (max(1, round(PICTURE * side / max(sides))) for side in sides)
    at = np.ix_(_nearest(pixels.shape[0], rows), _nearest(pixels.shape[1], columns))
    low, high = np.percentile(pixels, (_DARK, _BRIGHT))
    scaled = (pixels[at] - low) / (high - low if high > low else 1.0)
    return np.asarray((255 * scaled.clip(0, 1)).round(), np.uint8)


def _read(folder: Path, known: Stamp) -> _Read | None:
    """The list of a run, unless it is the one that is known."""
    found = stamp(folder)
    return None if found == known else _Read(folder, found, read_suggestions(folder))


def _pictures(project: Path, places: list[Place]) -> Iterator[tuple[Place, NDArray[np.uint8]]]:
    opened = Project.open(project)
    for place in places:
        if place.volume in opened.volumes:
            yield place, picture(opened, place)


def _nearest(size: int, wanted: int) -> NDArray[np.intp]:
    return ((np.arange(wanted) + 0.5) * size / wanted).astype(np.intp)
