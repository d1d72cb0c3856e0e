"""Which slices to label next: a greedy choice of those that stand for most of what the labels do not reach yet.

    gain of i = Σ_j  uncertainty_j × disagreement_j × (novelty_j² - novelty_j² once i is labelled),  over all slices j

The novelty of a slice is its distance, in prototype space, to the nearest slice that is annotated *or chosen already*. So a slice
counts by its own uncertainty × disagreement × novelty, and by that of all that are like it: weighted k-means over core-set
distances (Sener and Savarese, ICLR 2018; representatives before hard cases: Hacohen, Dekel and Weinshall, ICML 2022). The
plain product of a slice's own factors prefers outliers: on hippocampus, after four annotated slices, seven of its first
eight were empty slices at the volumes' ends (docs/experiments.md, 2026-11-28).

A volume that is begun is gone on with until it has `PER_VOLUME` annotated slices: a patch of it then shows the network several
slices at once. One slice in each of many volumes teaches less by the same number of steps (same entry).

While the network knows nothing its uncertainty is much the same everywhere, and what counts is whom a slice stands for; the more it
knows, the more the uncertain ones decide; of what it is sure of there is nothing to gain, however odd. Disagreement is
at least a twentieth of the largest among the candidates: where rectification says nothing, uncertainty still does.

Everything is a function of its arguments; ties go to the slice that comes first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Float = NDArray[np.float64]

_FLOOR = 0.05
#: Square distance that remains between any two slices: a slice's own worth decides among those that stand for the same.
_NUGGET = 0.05
#: Annotated slices that a volume gets before another is begun.
PER_VOLUME = 4
#: Bounds of the work, evenly thinned above: slices that may be chosen, that are stood for, and annotated ones.
CANDIDATES, CROWD, REFERENCES = 4096, 1024, 1024


@dataclass(frozen=True)
class Slices:
    """Slices of all surveyed volumes, one row each."""

    #: Number of the volume.
    volume: NDArray[np.intp]
    axis: NDArray[np.intp]
    index: NDArray[np.intp]
    #: mm².
    uncertainty: _Float
    #: 0-1; None where nothing is rectified.
    disagreement: _Float | None
    #: (n, K), prototype space.
    features: NDArray[np.float32]
    annotated: NDArray[np.bool_]


@dataclass(frozen=True)
class Choice:
    """One suggested slice.

    Parameters
    ----------
    row : of the slices
    gain : share of what the labels do not reach that it would reach, 0-1, given those before it
    novelty : its distance to the nearest annotated or chosen slice when it was chosen; 1: as of two slices at random
    newer_than : share of the candidates then that were less novel
    stands_for : how many slices, itself included, it lies nearer to than any annotated or chosen one
    """

    row: int
    gain: float
    novelty: float
    newer_than: float
    stands_for: int


def choose(slices: Slices, count: int) -> list[Choice]:
    """Up to `count` slices, best first; fewer where the rest are annotated or next to a chosen one."""
    open_rows = np.flatnonzero(~slices.annotated)
    if not len(open_rows):
        return []
    field = _Field(slices, open_rows)
    chosen: list[Choice] = []
    free = np.ones(len(field.rows), np.bool_)
    while len(chosen) < count and free.any():
        begun = free & field.begun
        gain = field.gain()
        best = int(np.where(begun if begun.any() else free, gain, -1.0).argmax())
        novelty = field.novelty
        newer_than = float((novelty[free] < novelty[best]).mean())
        row = int(field.rows[best])
        known = _finite(novelty[best])
        chosen.append(Choice(row, float(gain[best]), known, newer_than, field.stands_for(best)))
        free &= ~_touches(slices, field.rows, row)
        field.take(best)
    return chosen


class _Field:
    """How far all slices are from labels, while slices are chosen one by one.

    Parameters
    ----------
    open_rows : slices without annotation
    """

    def __init__(self, slices: Slices, open_rows: NDArray[np.intp]) -> None:
        self._volume = slices.volume
        self.rows = _thinned(open_rows, CANDIDATES)
        crowd = _thinned(open_rows, CROWD)
        self._each = len(open_rows) / len(crowd)
        worth = _worth(slices)
        self._own, self._weight = worth[self.rows], worth[crowd] * self._each
        space = _standardised(slices.features)
        self._apart = _square_distances(space[crowd], space[self.rows])
        taken = np.flatnonzero(slices.annotated)
        references = space[_thinned(taken, REFERENCES)]
        self._own_reach = _nearest(space[self.rows], references)
        start = float(self._apart.max()) if not len(taken) else np.inf
        self._reach = np.minimum(_nearest(space[crowd], references), start)
        self._candidates = space[self.rows]
        self._of_volume = np.bincount(slices.volume[taken], minlength=int(slices.volume.max()) + 1)
        self._all = float((self._weight * (self._reach + _NUGGET)).sum())

    @property
    def novelty(self) -> _Float:
        """Distance of each candidate to the nearest annotated or chosen slice; infinite without any."""
        return np.sqrt(self._own_reach)

    def gain(self) -> _Float:
        """Of each candidate, as a share of all that there was to gain at first."""
        reached = np.maximum(self._reach[:, None] - self._apart, 0)
        return np.asarray((self._weight @ reached + _NUGGET * self._own) / self._all, np.float64)

    @property
    def begun(self) -> NDArray[np.bool_]:
        """Which candidates lie in volumes that are to be gone on with."""
        count = self._of_volume[self._volume[self.rows]]
        return np.asarray((count > 0) & (count < PER_VOLUME))

    def stands_for(self, candidate: int) -> int:
        """How many slices a candidate lies nearer to than what is annotated or chosen."""
        return max(1, round(self._each * int((self._apart[:, candidate] < self._reach).sum())))

    def take(self, candidate: int) -> None:
        """Count a candidate as chosen."""
        self._reach = np.minimum(self._reach, self._apart[:, candidate])
        own = _square_distances(self._candidates, self._candidates[candidate][None])[:, 0]
        self._own_reach = np.minimum(self._own_reach, own)
        self._of_volume[self._volume[self.rows[candidate]]] += 1


def _worth(slices: Slices) -> _Float:
    """Uncertainty × disagreement of each slice, 0-1."""
    worth = _relative(slices.uncertainty, ~slices.annotated)
    if slices.disagreement is None:
        return worth
    return worth * (_FLOOR + (1 - _FLOOR) * _relative(slices.disagreement, ~slices.annotated))


def _relative(values: _Float, among: NDArray[np.bool_]) -> _Float:
    """In proportion to the largest among the candidates, 0-1; all 1 where that is 0."""
    largest = float(values[among].max(initial=0.0))
    return values / largest if largest > 0 else np.ones_like(values)


def _finite(distance: float) -> float:
    """Where nothing is annotated yet, everything is new: as far as two slices at random."""
    return float(distance) if np.isfinite(distance) else 1.0


def _standardised(features: NDArray[np.float32]) -> _Float:
    """So scaled that the mean square distance of two slices at random is 1."""
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    spread = centred.std(0)
    scaled = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-9)
    return np.asarray(scaled / np.sqrt(2 * max(1, int((spread > 1e-9).sum()))))


def _square_distances(points: _Float, others: _Float) -> _Float:
    """(n, m)."""
    square = (points**2).sum(1)[:, None] - 2 * points @ others.T + (others**2).sum(1)
    return np.asarray(np.maximum(square, 0))


def _nearest(points: _Float, references: _Float) -> _Float:
    """Square distance of each point to the nearest reference; infinite without any."""
    if not len(references):
        return np.full(len(points), np.inf)
    return np.asarray(_square_distances(points, references).min(1))


def _touches(slices: Slices, rows: NDArray[np.intp], row: int) -> NDArray[np.bool_]:
    """Which rows are the slice itself or its neighbours."""
    same = (slices.volume[rows] == slices.volume[row]) & (slices.axis[rows] == slices.axis[row])
    return np.asarray(same & (np.abs(slices.index[rows] - slices.index[row]) <= 1))


def _thinned(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """Evenly spaced ones, where there are more."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.intp)]
