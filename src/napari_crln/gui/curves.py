"""Curves of a run: bounded memory, peaks kept, true to what a resumed run does over.

A series that is full is thinned to half: of every four points the lowest and the highest stay, in order, so
that a spike is never lost. What a run repeats after it went back to a checkpoint replaces what was there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.events import Event, Stepped, Validated

#: Most points of a series.
CAPACITY = 100_000
_BLOCK = 4

_Values = NDArray[np.float64]


class Series:
    """Points (step, value), steps ascending.

    Parameters
    ----------
    capacity : most points, a multiple of 4
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._steps = np.empty(capacity)
        self._values = np.empty(capacity)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def steps(self) -> _Values:
        return self._steps[: self._count]

    @property
    def values(self) -> _Values:
        return self._values[: self._count]

    def add(self, step: float, value: float) -> None:
        """Append a point; points at this step or later are dropped, for the run has gone back."""
        if self._count and step <= self._steps[self._count - 1]:
            self._count = int(np.searchsorted(self.steps, step))
        if self._count == len(self._steps):
            self._thin()
        self._steps[self._count], self._values[self._count] = step, value
        self._count += 1

    def _thin(self) -> None:
        """Keep the lowest and the highest of every four points."""
        blocks = self._values.reshape(-1, _BLOCK)
        ends = np.sort(np.stack([np.nanargmin(_finite(blocks), 1), np.nanargmax(_finite(blocks), 1)], 1), 1)
        same = ends[:, 0] == ends[:, 1]  # a flat block: its first and last
        ends[same] = (0, _BLOCK - 1)
        kept = (np.arange(len(blocks))[:, None] * _BLOCK + ends).ravel()
        self._count = len(kept)
        self._steps[: self._count] = self._steps[kept]
        self._values[: self._count] = self._values[kept]


class Curves:
    """All series of a run, by name.

    Attributes
    ----------
    revision : grows with every change, so that a view knows when to draw
    runs : grows when another run is watched, so that it knows when to begin anew
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self.revision = self.runs = -1
        self.clear()

    def clear(self) -> None:
        """Forget everything: another run is watched."""
        self.losses: dict[str, Series] = {}
        self.measures: dict[str, Series] = {}
        self.dice: dict[str, Series] = {}
        self.revision += 1
        self.runs += 1

    def add(self, event: Event) -> None:
        """Take in an event; other kinds than reports and validations change nothing."""
        if isinstance(event, Stepped):
            self._add(self.losses, event.step, event.losses)
            self._add(self.measures, event.step, event.measures)
        elif isinstance(event, Validated):
            self._add(self.dice, event.step, {"mean": event.dice, **event.per_class})

    def _add(self, group: dict[str, Series], step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            if name not in group:
                group[name] = Series(self._capacity)
            group[name].add(step, value)
        self.revision += 1


def _finite(blocks: Any) -> Any:
    """Values without NaN, which would hide a block's ends."""
    return np.where(np.isnan(blocks), 0.0, blocks)
