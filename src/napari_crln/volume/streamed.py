"""Stored arrays read region by region through tensorstore: for volumes that are not held in memory.

It decodes shards and checksums two to five times as fast as zarr-python, on threads of its own, and keeps the
chunks that it decoded last, so that neighbouring regions cost little. Zarr-python stays the writer of
everything, and the reader of whole arrays (`store`).

A chunk is looked for on disk again only when its array is opened again: images never change after import.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.errors import CorruptData
from napari_crln.types import ShapeDHW

if TYPE_CHECKING:  # who trains on arrays in memory needs neither tensorstore nor Zarr
    from napari_crln.volume.stored import Volume

Region = tuple[slice, slice, slice]
_RESTORE = "Restore it from a copy, or import the volume again"


class ChunkCache:
    """Decoded chunks of any number of arrays, the least recently used dropped first.

    Parameters
    ----------
    mebibytes : held at most
    """

    def __init__(self, mebibytes: int) -> None:
        import tensorstore as ts

        self.context = ts.Context({"cache_pool": {"total_bytes_limit": mebibytes << 20}})


class StreamedArray:
    """A stored array (D, H, W) of which only what is sliced is read; indices as NumPy takes them, in steps of 1.

    Parameters
    ----------
    folder : of the Zarr v3 array
    cache : shared by the arrays of a run

    Raises
    ------
    CorruptData
        When opened, if there is no such array; when sliced, if a chunk is missing or fails its checksum.
    """

    def __init__(self, folder: Path, cache: ChunkCache) -> None:
        import tensorstore as ts

        self._folder = folder
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(folder)},
            "fill_missing_data_reads": False,
            "recheck_cached_data": "open",
        }
        try:
            self._store = ts.open(spec, read=True, context=cache.context).result()
        except ValueError as error:
            raise _corrupt(error, folder) from error

    @property
    def shape(self) -> ShapeDHW:
        d, h, w = self._store.shape
        return int(d), int(h), int(w)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self._store.dtype.numpy_dtype)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read a region, whole or not at all."""
        try:
            return np.asarray(self._store[_within_bounds(key, self.shape)].read().result())
        except ValueError as error:
            raise _corrupt(error, self._folder) from error

    def within(self, region: Region) -> StreamedArray:
        """A region as an array of its own, nothing read yet."""
        part = object.__new__(StreamedArray)
        part._folder = self._folder
        part._store = self._store[_within_bounds(region, self.shape)].translate_to[0]
        return part


def streamed_image(volume: Volume, cache: ChunkCache) -> StreamedArray:
    """A volume's image, stored dtype; CorruptData if its description is damaged."""
    _ = volume.image  # tensorstore knows of no seal
    return StreamedArray(volume.path / "0", cache)


def _within_bounds(key: Any, shape: ShapeDHW) -> tuple[int | slice, ...]:
    """NumPy's reading of a key: slices end with the array, and what is negative counts from there."""
    keys = key if isinstance(key, tuple) else (key,)
    return tuple(
        slice(*k.indices(size)[:2]) if isinstance(k, slice) else range(size)[k]
        for k, size in zip(keys, shape, strict=False)
    )


def _corrupt(error: Exception, folder: Path) -> CorruptData:
    what = str(error).split("[")[0].strip()
    return CorruptData(f"it cannot be read ({what})", "stored bytes never change", _RESTORE, folder)
