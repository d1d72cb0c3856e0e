"""Where the windows of a prediction lie, and how much each of their voxels counts.

A window starts every `stride` voxels, and the last one is flush with the border. A volume smaller than the window
is padded about its centre, the odd voxel after. Grid and importance are those of MONAI's
`sliding_window_inference(mode="gaussian")`, and the grid is that of the LA literature's test scripts
(patch 80 × 112 × 112, stride 4 × 18 × 18), so that figures compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from napari_crln.errors import ConfigError
from napari_crln.types import ShapeDHW
from napari_crln.volume.patches import Padding

_SIGMA = 0.125  # of the window's size
_LEAST_IMPORTANCE = 1e-3  # keeps corners from dividing 0 by 0


@dataclass(frozen=True)
class Grid:
    """Window positions over a volume of `shape` voxels; build it by `Grid.over`.

    Positions count in the padded volume, `max(shape, patch)` along each axis, in which the volume starts at
    `before`.
    """

    shape: ShapeDHW
    patch: ShapeDHW
    stride: ShapeDHW

    @classmethod
    def over(cls, shape: ShapeDHW, patch: ShapeDHW, stride: ShapeDHW | None, overlap: float) -> Grid:
        """Windows every `stride` voxels; without one, `overlap` of a window's size is covered twice.

        Raises
        ------
        ConfigError : a stride below 1, or larger than the window, which would leave gaps
        """
        stride = stride or _strides(patch, overlap)
        if any(not 1 <= step <= size for step, size in zip(stride, patch, strict=True)):
            raise ConfigError(
                f"stride {stride} with windows of {patch}",
                "a stride lies between 1 and the window's size, or voxels are left out",
                "Lower it, or set predicting.overlap instead",
                "predicting.stride",
            )
        return cls(shape, patch, stride)

    @property
    def padded(self) -> ShapeDHW:
        """Shape that the windows tile."""
        d, h, w = (max(size, window) for size, window in zip(self.shape, self.patch, strict=True))
        return d, h, w

    @property
    def before(self) -> ShapeDHW:
        """Padding before the volume; what is missing then follows after it."""
        return Padding.to_fit(self.shape, self.patch).before

    @cached_property
    def rows(self) -> list[int]:
        """Starts along D, ascending: the windows of one row share it."""
        return _starts(self.padded[0], self.patch[0], self.stride[0])

    @cached_property
    def columns(self) -> list[tuple[int, int]]:
        """Starts (H, W) of the windows of a row."""
        h, w = (_starts(self.padded[a], self.patch[a], self.stride[a]) for a in (1, 2))
        return list(product(h, w))

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)


def importance(patch: ShapeDHW) -> NDArray[np.float32]:
    """Gaussian weight of each voxel of a window, σ = size / 8 along each axis, 1 at its centre."""
    profiles = []
    for size in patch:
        offset = np.arange(size) - (size - 1) / 2
        profiles.append(np.exp(-(offset**2) / (2 * (_SIGMA * size) ** 2)))
    weight = np.einsum("d,h,w->dhw", *profiles)
    return np.asarray(np.maximum(weight, _LEAST_IMPORTANCE), dtype=np.float32)


def _strides(patch: ShapeDHW, overlap: float) -> ShapeDHW:
    d, h, w = (max(1, int(size * (1 - overlap))) for size in patch)
    return d, h, w


def _starts(size: int, window: int, stride: int) -> list[int]:
    last = size - window
    return [*range(0, last, stride), last]
