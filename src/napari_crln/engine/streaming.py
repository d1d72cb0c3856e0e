"""Images that are read patch by patch, with the same patches, bit for bit, as resident ones.

To a cohort a streamed image looks like a resident one: a tensor that is cut by windows. What a window needs is read by
`fetch`, on a thread, ahead of the step (`ahead.ReadAhead`), into page-locked memory where the device is a GPU; cutting
only moves it there. A window that nobody fetched is read when it is cut.

Labels are no part of this: few volumes have them, and they change while training runs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_crln.types import ShapeDHW
from napari_crln.volume.patches import Padding
from napari_crln.volume.streamed import StreamedArray

Window = tuple[slice, ...]
_FETCHED = 64  # patches of a volume that wait to be cut: more than any read-ahead has


class StreamedTensor:
    """A padded image on disk that is cut like a tensor on the device; the padding is 0.

    Parameters
    ----------
    array : (D, H, W)
    padding : around it
    prepare : NumPy patch as stored to one that torch can hold, voxel by voxel
    device : where cut patches are
    """

    def __init__(
        self,
        array: StreamedArray,
        padding: Padding,
        prepare: Callable[[NDArray[Any]], NDArray[Any]],
        device: torch.device,
    ) -> None:
        self._array, self._prepare, self._device = array, prepare, device
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
            values = np.pad(values, around)
        patch = torch.from_numpy(np.ascontiguousarray(values))
        return patch.pin_memory() if self._device.type == "cuda" else patch


def _corner(window: Window) -> tuple[int, ...]:
    return tuple(s.start for s in window)
