"""Volumes that are read patch by patch, with the same patches, bit for bit, as resident ones.

To a cohort a streamed volume looks like a resident one: tensors that are cut by windows, and voxels that patches
are centred on. What a window needs is read by `fetch`, on a thread, ahead of the step (`ahead.ReadAhead`), into
page-locked memory where the device is a GPU; cutting only moves it there. A window that nobody fetched is
read when it is cut.

Centres are not listed: a volume of 1024³ may have 10⁹ of them. One pass counts them row by row along W; the k-th,
in the order in which a list would have it, is then found by its row, which is read again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import product
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_crln.types import IGNORE, ShapeDHW
from napari_crln.volume.patches import Padding
from napari_crln.volume.streamed import StreamedArray

Window = tuple[slice, ...]
_FETCHED = 64  # patches of a volume that wait to be cut: more than any read-ahead has
_BAND = 64  # voxels along D and H that a pass reads together, as deep as a stored chunk


class StreamedTensor:
    """A padded volume on disk that is cut like a tensor on the device.

    Parameters
    ----------
    array : (D, H, W)
    padding : around it
    fill : value of the padding
    prepare : NumPy patch as stored to one that torch can hold, voxel by voxel
    device : where cut patches are
    """

    def __init__(
        self,
        array: StreamedArray,
        padding: Padding,
        fill: int,
        prepare: Callable[[NDArray[Any]], NDArray[Any]],
        device: torch.device,
    ) -> None:
        self._array, self._fill, self._prepare, self._device = array, fill, prepare, device
        self._inside = padding.inside(array.shape)
        ends = zip(padding.before, array.shape, padding.after, strict=True)
        d, h, w = (before + size + after for before, size, after in ends)
        self.shape: ShapeDHW = (d, h, w)
        self._fetched: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self._lock = Lock()

    def fetch(self, window: Window) -> None:
        """Read a window now, for a later cut."""
        patch = self._read(window)
        with self._lock:
            self._fetched[_corner(window)] = patch
            while len(self._fetched) > _FETCHED:
                self._fetched.popitem(last=False)

    def __getitem__(self, window: Window) -> Tensor:
        """Cut a window, all of it within the padded volume."""
        with self._lock:
            patch = self._fetched.pop(_corner(window), None)
        return (self._read(window) if patch is None else patch).to(self._device, non_blocking=True)

    def _read(self, window: Window) -> Tensor:
        pairs = list(zip(window, self._inside, strict=True))
        region = tuple(
            slice(max(s.start, i.start) - i.start, min(s.stop, i.stop) - i.start) for s, i in pairs
        )
        values = self._prepare(self._array[region])
        around = [(max(0, i.start - s.start), max(0, s.stop - i.stop)) for s, i in pairs]
        if any(before or after for before, after in around):
            values = np.pad(values, around, constant_values=self._fill)
        patch = torch.from_numpy(np.ascontiguousarray(values))
        return patch.pin_memory() if self._device.type == "cuda" else patch


class StreamedVoxels:
    """The voxels of a kind, in the order of `nonzero`, as (d, h, w) in the padded volume.

    Parameters
    ----------
    array : targets, (D, H, W)
    before : padding before it
    chosen : which targets are of the kind
    rows : how many of them each row along W has, (D·H,)
    """

    def __init__(
        self,
        array: StreamedArray,
        before: ShapeDHW,
        chosen: Callable[[NDArray[Any]], NDArray[np.bool_]],
        rows: NDArray[np.int64],
    ) -> None:
        self._array, self._before, self._chosen = array, before, chosen
        self._upto = np.cumsum(rows)

    def __len__(self) -> int:
        return int(self._upto[-1])

    def __getitem__(self, k: int) -> Tensor:
        row = int(np.searchsorted(self._upto, k, side="right"))
        d, h = divmod(row, self._array.shape[1])
        rank = k - int(self._upto[row - 1] if row else 0)
        (columns,) = np.nonzero(self._chosen(self._array[d, h]))
        voxel = (d, h, int(columns[rank]))
        return torch.tensor([v + b for v, b in zip(voxel, self._before, strict=True)])


def is_annotated(target: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels that carry a label."""
    return np.asarray(target != IGNORE)


def is_foreground(target: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels of any class but the background."""
    return np.asarray(target > 0)


def count_rows(
    array: StreamedArray, kinds: list[Callable[[NDArray[Any]], NDArray[np.bool_]]]
) -> list[NDArray[np.int64]]:
    """How many voxels of each kind each row along W has, in one pass by bands."""
    depth, height, _ = array.shape
    counts = [np.empty((depth, height), np.int64) for _ in kinds]
    for d, h in product(range(0, depth, _BAND), range(0, height, _BAND)):
        band = slice(d, min(d + _BAND, depth)), slice(h, min(h + _BAND, height))
        targets = array[band]
        for rows, kind in zip(counts, kinds, strict=True):
            rows[band] = kind(targets).sum(-1)
    return [rows.reshape(-1) for rows in counts]


def _corner(window: Window) -> tuple[int, ...]:
    return tuple(s.start for s in window)
