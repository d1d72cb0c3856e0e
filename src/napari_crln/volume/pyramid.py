"""Levels of a multiscale image: each halves the axes that are finest, so that voxels tend to become cubes.

Intensities are averaged over the 1 to 8 voxels that become one; labels keep the first of them, so that no
class appears that was not there. Odd sizes round up, the last voxel standing for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.types import ShapeDHW, SpacingDHW

#: A volume gets coarser levels until no axis is longer: what a viewer draws in 3D without effort.
PREVIEW = 128


@dataclass(frozen=True)
class Level:
    """One level: its shape, spacing in mm, and the factors (1 or 2 an axis) from the level before."""

    shape: ShapeDHW
    spacing: SpacingDHW
    factors: tuple[int, int, int]


def plan(shape: ShapeDHW, spacing: SpacingDHW) -> list[Level]:
    """All levels of a volume, finest first; one level for a volume that is small already."""
    levels = [Level(shape, spacing, (1, 1, 1))]
    while max(levels[-1].shape) > PREVIEW:
        levels.append(_next(levels[-1]))
    return levels


def _next(level: Level) -> Level:
    finest = min(s for s, size in zip(level.spacing, level.shape, strict=True) if size > 1)
    d, h, w = (
        2 if size > 1 and spacing < 2 * finest else 1
        for spacing, size in zip(level.spacing, level.shape, strict=True)
    )
    (a, b, c), (x, y, z) = level.shape, level.spacing
    return Level((-(-a // d), -(-b // h), -(-c // w)), (x * d, y * h, z * w), (d, h, w))


def average(block: NDArray[Any], factors: tuple[int, int, int]) -> NDArray[Any]:
    """Mean of each cell of `factors` voxels, in the block's dtype (integers rounded)."""
    missing = [(0, -size % f) for size, f in zip(block.shape, factors, strict=True)]
    padded = np.pad(block, missing, mode="edge") if any(after for _, after in missing) else block
    (d, h, w), (a, b, c) = padded.shape, factors
    wide = np.float64 if block.dtype.itemsize > 2 else np.float32
    mean = padded.reshape(d // a, a, h // b, b, w // c, c).mean(axis=(1, 3, 5), dtype=wide)
    return _to_dtype(mean, block.dtype)


def decimate(block: NDArray[Any], factors: tuple[int, int, int]) -> NDArray[Any]:
    """The first voxel of each cell."""
    return block[tuple(slice(None, None, f) for f in factors)]


def _to_dtype(mean: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return np.asarray(mean.astype(dtype))
    if dtype.itemsize < 8:
        return np.asarray(np.rint(mean).astype(dtype))
    limits = np.iinfo(dtype)  # 64-bit limits are not exact in float64: stay one step inside
    inside = np.clip(np.rint(mean), float(limits.min), np.nextafter(float(limits.max), 0))
    return np.asarray(inside.astype(dtype))
