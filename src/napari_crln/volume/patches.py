"""Volumes smaller than the network's patch: padded about their centre, for training and prediction alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.types import ShapeDHW


@dataclass(frozen=True)
class Padding:
    """Voxels added before and after D, H, W; the odd one goes after.

    Works on the trailing three axes, so that channels or classes may lead. `pad(a)[..., *inside(shape)]` is `a`.
    """

    before: ShapeDHW
    after: ShapeDHW

    @classmethod
    def to_fit(cls, shape: ShapeDHW, patch: ShapeDHW) -> Padding:
        """The padding that makes a volume of `shape` at least as large as `patch` along every axis."""
        d, h, w = (max(0, wanted - size) for size, wanted in zip(shape, patch, strict=True))
        return cls((d // 2, h // 2, w // 2), (d - d // 2, h - h // 2, w - w // 2))

    @property
    def needed(self) -> bool:
        """Whether there is anything to add."""
        return any(self.before) or any(self.after)

    def pad(self, array: NDArray[Any], constant: float = 0) -> NDArray[Any]:
        """Add voxels of the value `constant`; the dtype is kept."""
        if not self.needed:
            return array
        leading = [(0, 0)] * (array.ndim - 3)
        widths = leading + list(zip(self.before, self.after, strict=True))
        return np.pad(array, widths, constant_values=constant)

    def inside(self, shape: ShapeDHW) -> tuple[slice, slice, slice]:
        """Where a volume of `shape` lies once it is padded."""
        d, h, w = (slice(low, low + size) for low, size in zip(self.before, shape, strict=True))
        return d, h, w
