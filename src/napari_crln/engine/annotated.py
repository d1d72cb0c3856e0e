"""The annotated voxels of a volume, by cells of a patch's size: what labelled patches are centred on.

A cell is chosen first, each with an annotated voxel as likely as any other, then a voxel in it. So a correction of
fifty voxels is not drowned by three complete slices, and a volume's slices are covered evenly. A cell lists at
most `MOST` of its voxels, spread over all of them: memory and the work of a change are bounded, however much is
annotated. Everything here follows from the labels alone, not from the order in which they were painted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.types import IGNORE, ShapeDHW

if TYPE_CHECKING:
    from napari_crln.volume.annotation import Box

#: Voxels that a cell lists at most.
MOST = 4096
Cell = tuple[int, int, int]


@dataclass(frozen=True)
class AnnotatedVoxels:
    """Annotated voxels of a volume.

    Parameters
    ----------
    shape : of the volume, D, H, W
    patch : size of a cell
    listed : voxels (n, 3) of each cell that has any, in the order of the cells
    counts : how many voxels of each cell are annotated
    """

    shape: ShapeDHW
    patch: ShapeDHW
    listed: Mapping[Cell, NDArray[np.int64]]
    counts: Mapping[Cell, int]

    @classmethod
    def of(cls, target: Any, patch: ShapeDHW) -> AnnotatedVoxels:
        """Those of targets (D, H, W), an array or anything that is sliced like one; read cell by cell."""
        d, h, w = target.shape
        return cls((d, h, w), patch, {}, {}).with_part(target, ((0, d), (0, h), (0, w)))

    def __len__(self) -> int:
        return sum(self.counts.values())

    @property
    def is_complete(self) -> bool:
        """Whether every voxel is annotated."""
        return len(self) == np.prod(self.shape)

    def aligned(self, box: Box) -> Box:
        """The smallest box of whole cells about a box."""
        spans = [
            (start // p * p, min(-(-stop // p) * p, n))
            for (start, stop), p, n in zip(box, self.patch, self.shape, strict=True)
        ]
        return spans[0], spans[1], spans[2]

    def with_part(self, target: Any, box: Box) -> AnnotatedVoxels:
        """After a change.

        Parameters
        ----------
        target : targets of the box
        box : as `aligned` gives it
        """
        listed, counts = dict(self.listed), dict(self.counts)
        for cell, start, inner in self._cells(box):
            voxels = np.argwhere(np.asarray(target[inner]) != IGNORE)
            listed.pop(cell, None)
            counts.pop(cell, None)
            if len(voxels):
                listed[cell], counts[cell] = voxels[_some(len(voxels))] + start, len(voxels)
        return AnnotatedVoxels(self.shape, self.patch, dict(sorted(listed.items())), counts)

    def pick(self, u: float) -> ShapeDHW:
        """The voxel (d, h, w) that a number 0 ≤ u < 1 stands for."""
        cells = list(self.listed.values())
        position = u * len(cells)
        voxels = cells[int(position)]
        d, h, w = voxels[int((position - int(position)) * len(voxels))].tolist()
        return d, h, w

    def _cells(self, box: Box) -> Iterator[tuple[Cell, NDArray[np.int64], tuple[slice, ...]]]:
        """Number and first voxel of each cell of a box, and where it lies in the box."""
        ranges = [range(start, stop, p) for (start, stop), p in zip(box, self.patch, strict=True)]
        for d, h, w in product(*ranges):
            start = np.array((d, h, w))
            inner = tuple(
                slice(s - b, min(s + p, stop) - b)
                for s, p, (b, stop) in zip((d, h, w), self.patch, box, strict=True)
            )
            a, b, c = (start // np.array(self.patch)).tolist()
            yield (a, b, c), start, inner


def _some(count: int) -> NDArray[np.int64]:
    """At most `MOST` of `count` numbers, in order: steps of the golden ratio, which no row or column is in step with."""
    if count <= MOST:
        return np.arange(count)
    golden = (5**0.5 - 1) / 2
    return np.unique((np.arange(MOST) * golden % 1.0 * count).astype(np.int64))
