"""Which slices to label next: a greedy choice of those with the largest expected gain.

    gain = uncertainty × disagreement × novelty × room

Uncertainty and disagreement are relative to the largest among the candidates; novelty is 1 - e^-d for the distance d, in
prototype space, to the nearest slice that is annotated *or chosen already*; room keeps a slice away from annotated and chosen
ones across the same axis of the same volume. So each choice discounts what is like it, as in core-set selection (Sener and Savarese,
ICLR 2018), weighted by what the network does not know. No factor falls below a twentieth: one that says nothing must not
silence the others.

Everything is a function of its arguments; ties go to the slice that comes first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Float = NDArray[np.float64]

_FLOOR = 0.05
_REACH_MM_SHARE = 0.08  # of a volume's extent: how far the room of a slice reaches
_REACH_SLICES = 2.0
#: Bounds of the work: candidates most worth it by the first two factors, and reference slices.
CANDIDATES, REFERENCES = 4096, 1024


@dataclass(frozen=True)
class Slices:
    """Slices of all surveyed volumes, one row each."""

    #: Number of the volume.
    volume: NDArray[np.intp]
    axis: NDArray[np.intp]
    index: NDArray[np.intp]
    #: mm along the axis, and extent of the volume along it.
    position: _Float
    extent: _Float
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
    gain, novelty : its gain and its distance when it was chosen
    newer_than : share of the candidates then that were less novel
    """

    row: int
    gain: float
    novelty: float
    newer_than: float


def choose(slices: Slices, count: int) -> list[Choice]:
    """Up to `count` slices, best first; fewer where the rest are annotated or next to a chosen one."""
    worth = _relative(slices.uncertainty, ~slices.annotated)
    if slices.disagreement is not None:
        worth = worth * _relative(slices.disagreement, ~slices.annotated)
    rows = np.flatnonzero(~slices.annotated)
    rows = np.sort(rows[np.argsort(-worth[rows], kind="stable")][:CANDIDATES])
    if not len(rows):
        return []
    space = _standardised(slices.features)
    references = _thinned(np.flatnonzero(slices.annotated), REFERENCES)
    distance = _nearest(space[rows], space[references])
    room = _room(slices, rows, np.flatnonzero(slices.annotated))
    chosen: list[Choice] = []
    free = np.ones(len(rows), np.bool_)
    while len(chosen) < count and free.any():
        gain = np.where(free, worth[rows] * _novel(distance) * room, -1.0)
        best = int(gain.argmax())
        newer_than = float((distance[free] < distance[best]).mean())
        chosen.append(Choice(int(rows[best]), float(gain[best]), _finite(distance[best]), newer_than))
        free &= ~_touches(slices, rows, rows[best])
        distance = np.minimum(distance, _nearest(space[rows], space[rows[best]][None]))
        room = np.minimum(room, _room(slices, rows, rows[best : best + 1]))
    return chosen


def _relative(values: _Float, among: NDArray[np.bool_]) -> _Float:
    """0.05 … 1, in proportion to the largest among the candidates."""
    largest = float(values[among].max(initial=0.0))
    return _FLOOR + (1 - _FLOOR) * (values / largest if largest > 0 else np.ones_like(values))


def _novel(distance: _Float) -> _Float:
    return _FLOOR + (1 - _FLOOR) * (1 - np.exp(-distance))


def _finite(distance: float) -> float:
    """Where nothing is annotated yet, everything is new: as far as two slices at random."""
    return float(distance) if np.isfinite(distance) else 1.0


def _standardised(features: NDArray[np.float32]) -> _Float:
    """So scaled that the mean square distance of two slices at random is 1."""
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    spread = centred.std(0)
    scaled = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-9)
    return np.asarray(scaled / np.sqrt(2 * max(1, int((spread > 1e-9).sum()))))


def _nearest(points: _Float, references: _Float) -> _Float:
    """Distance of each point to the nearest reference; infinite without any."""
    if not len(references):
        return np.full(len(points), np.inf)
    square = (points**2).sum(1)[:, None] - 2 * points @ references.T + (references**2).sum(1)
    return np.asarray(np.sqrt(np.maximum(square.min(1), 0)))


def _room(slices: Slices, rows: NDArray[np.intp], taken: NDArray[np.intp]) -> _Float:
    """1 - e^(-½ (distance / reach)²) to the nearest taken slice across the same axis of the same volume."""
    key = slices.volume * 3 + slices.axis
    gap = np.full(len(rows), np.inf)
    for place in np.unique(key[taken]):
        here, there = key[rows] == place, taken[key[taken] == place]
        apart = np.abs(slices.position[rows[here]][:, None] - slices.position[there])
        gap[here] = apart.min(1)
    slice_mm = slices.extent / np.maximum(1, _counts(slices))
    reach = np.maximum(_REACH_MM_SHARE * slices.extent, _REACH_SLICES * slice_mm)[rows]
    return _FLOOR + (1 - _FLOOR) * (1 - np.exp(-0.5 * (gap / reach) ** 2))


def _counts(slices: Slices) -> NDArray[np.intp]:
    """How many slices there are across each slice's axis of its volume."""
    key = slices.volume * 3 + slices.axis
    return np.asarray(np.bincount(key)[key], np.intp)


def _touches(slices: Slices, rows: NDArray[np.intp], row: np.intp) -> NDArray[np.bool_]:
    """Which rows are the slice itself or its neighbours."""
    same = (slices.volume[rows] == slices.volume[row]) & (slices.axis[rows] == slices.axis[row])
    return np.asarray(same & (np.abs(slices.index[rows] - slices.index[row]) <= 1))


def _thinned(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """Evenly spaced ones, where there are more."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(np.intp)]
