"""Look at a volume in coarse tiles, and sum up each of its slices.

Tiles hardly overlap, and up to a fifth of a tile at the volume's borders is left out: what is wanted is an order of
slices, not a segmentation, and a small volume that prediction covers by eight windows is looked at by one. Border slices that no
tile reaches are not ranked. One batch of tiles is one piece of work, between which training goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_crln.engine.predict import SlicedVolume, Windowing
from napari_crln.method.slices import CONFLICT, COUNT, FEATURES, UNCERTAINTY, WEIGHT, SliceBelief, sums_along
from napari_crln.types import ShapeDHW, SpacingDHW
from napari_crln.volume.intensity import Normalisation
from napari_crln.volume.patches import Padding

_LEFT_OUT = 0.2  # of a tile, along each axis
_Sums = NDArray[np.float64]

#: Windows (b, 1, d, h, w), normalised, to what the teacher believes of them.
Look = Callable[[Tensor], SliceBelief]


class Surveyed(Protocol):
    """What is needed of a volume: a `cohort.Case`, or one that is read as it is looked at."""

    @property
    def name(self) -> str: ...
    @property
    def image(self) -> SlicedVolume: ...
    @property
    def normalisation(self) -> Normalisation: ...
    @property
    def spacing(self) -> SpacingDHW: ...


@dataclass(frozen=True)
class AxisTable:
    """Slices across one axis; NaN where no tile reached."""

    #: mm²: the area that the teacher is not sure of, (S,).
    uncertainty: _Sums
    #: u-weighted mean of the disagreement, 0-1, (S,).
    disagreement: _Sums
    #: (S, K).
    features: NDArray[np.float32]


@dataclass(frozen=True)
class VolumeSurvey:
    """One volume, as the teacher of `step` saw it."""

    name: str
    step: int
    #: By axis.
    tables: dict[int, AxisTable]
    #: Whether disagreement was looked at: not before rectification has begun.
    rectified: bool


def survey_steps(
    look: Look,
    volume: Surveyed,
    axes: Sequence[int],
    windowing: Windowing,
    device: torch.device,
    step: int,
) -> Iterator[VolumeSurvey | None]:
    """None after each batch of tiles, and the survey last."""
    d, h, w = volume.image.shape
    sums: dict[int, _Sums] = {}
    rectified = True
    corners = tiles((d, h, w), windowing.patch)
    for first in range(0, len(corners), windowing.batch):
        batch = corners[first : first + windowing.batch]
        windows, valid = _cut(volume, batch, windowing)
        belief = look(torch.from_numpy(windows).to(device))
        rectified = belief.disagreement_BDHW is not None
        mask = torch.from_numpy(valid).to(device)
        for axis in axes:
            of_tiles = sums_along(belief, mask, axis).cpu().double().numpy()
            total = sums.setdefault(axis, np.zeros((volume.image.shape[axis], of_tiles.shape[2])))
            _add(total, of_tiles, [corner[axis] for corner in batch], windowing.patch[axis])
        yield None
    tables = {axis: _table(sums[axis], volume.spacing, axis, (d, h, w)) for axis in axes}
    yield VolumeSurvey(volume.name, step, tables, rectified)


def tiles(shape: ShapeDHW, patch: ShapeDHW) -> list[ShapeDHW]:
    """Corners of the tiles; those of a volume smaller than the patch are 0."""
    d, h, w = (_starts(n, p) for n, p in zip(shape, patch, strict=True))
    return list(product(d, h, w))


def _starts(size: int, tile: int) -> list[int]:
    count = max(1, math.ceil(size / tile - _LEFT_OUT))
    spare = size - count * tile
    if spare >= 0:
        return [spare // 2 + tile * index for index in range(count)]
    last = max(0, size - tile)
    return [round(last * index / max(1, count - 1)) for index in range(count)]


def _cut(
    volume: Surveyed, corners: Sequence[ShapeDHW], windowing: Windowing
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Normalised windows (b, 1, d, h, w), and where they hold voxels of the volume (b, d, h, w)."""
    windows, valid = [], []
    for corner in corners:
        region = tuple(slice(c, c + p) for c, p in zip(corner, windowing.patch, strict=True))
        values = volume.normalisation.apply(np.asarray(volume.image[region]))
        low, high = values.min(), values.max()
        if windowing.minmax:
            values = (values - low) / (high - low if high > low else np.float32(1))
        d, h, w = values.shape
        padding = Padding.to_fit((d, h, w), windowing.patch)
        windows.append(padding.pad(values, values.min()).astype(np.float32)[None])
        valid.append(padding.pad(np.ones((d, h, w), np.bool_)))
    return np.stack(windows), np.stack(valid)


def _add(total: _Sums, of_tiles: _Sums, starts: Sequence[int], tile: int) -> None:
    """Add tiles' sums to a volume's; a tile larger than the volume is padded about its centre."""
    size = len(total)
    before = max(0, tile - size) // 2
    for sums, start in zip(of_tiles, starts, strict=True):
        stop = min(size, start + tile)
        total[start:stop] += sums[before : before + stop - start]


def _table(sums: _Sums, spacing: SpacingDHW, axis: int, shape: ShapeDHW) -> AxisTable:
    area = math.prod(spacing[other] * shape[other] for other in range(3) if other != axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        uncertainty = np.where(sums[:, COUNT] > 0, area * sums[:, UNCERTAINTY] / sums[:, COUNT], np.nan)
        disagreement = np.where(
            sums[:, UNCERTAINTY] > 0, sums[:, CONFLICT] / sums[:, UNCERTAINTY], np.zeros(len(sums))
        )
        features = np.where(sums[:, WEIGHT, None] > 0, sums[:, FEATURES:] / sums[:, WEIGHT, None], 0)
    return AxisTable(uncertainty, disagreement, features.astype(np.float32))
