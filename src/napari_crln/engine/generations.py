"""Write generations of maps into `preview.zarr`: aside, tile by tile, renamed when whole; only the newest stay.

Nothing is fsynced: a preview lost in a power cut is no loss, and its chunks' checksums tell if it was damaged.
Planes come in order along D and go to disk in bands as deep as a chunk, so what is held is one band.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore

from napari_crln import durable
from napari_crln.previews import KEY, PreviewRecord, Quantisation, group_name, parse_group_name
from napari_crln.types import ShapeDHW

CHUNK = (32, 256, 256)  # voxels: one file, at most 2 MiB before compression


class Generations:
    """The engine's side of a `preview.zarr`; one process, the holder of the run's lock, writes it.

    Parameters
    ----------
    path : made when the first generation comes
    history : generations kept
    """

    def __init__(self, path: Path, history: int) -> None:
        self._path, self._history = path, history
        self._next = 1 + max(self.existing(), default=0)
        self._sweep()

    def existing(self) -> list[int]:
        """Complete generations, oldest first."""
        names = [entry.name for entry in self._path.iterdir()] if self._path.is_dir() else []
        return sorted(g for g in map(parse_group_name, names) if g is not None)

    def begin(self, shape: ShapeDHW) -> Draft:
        """Start the next generation, of arrays (…, *shape)."""
        if not (self._path / "zarr.json").exists():
            self._path.mkdir(exist_ok=True)
            durable.replace(self._path / "zarr.json", _group({KEY: {"schema_version": 1}}))
        generation = self._next
        self._next += 1
        return Draft(self._path / group_name(generation), generation, shape)

    def prune(self) -> None:
        """Remove all but the newest; each vanishes by a rename before its files go."""
        for generation in self.existing()[: -self._history]:
            path = self._path / group_name(generation)
            leaving = durable.temporary(path)
            with contextlib.suppress(
                OSError
            ):  # Windows: a reader holds a file open; the next call tries again
                path.rename(leaving)
                shutil.rmtree(leaving, ignore_errors=True)
        self._sweep()

    def _sweep(self) -> None:
        """Delete what a killed process left half written, and what could not be deleted before."""
        for path in self._path.glob(f"{durable.TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)


class Draft:
    """A generation that is being written; `abandon` or `publish` ends it."""

    def __init__(self, path: Path, generation: int, shape: ShapeDHW) -> None:
        self.generation = generation
        self._path, self._shape = path, shape
        self._aside = durable.temporary(path)
        self._bands: dict[str, _Band] = {}

    def append(self, name: str, planes: NDArray[np.uint8], quantisation: Quantisation) -> None:
        """Add the next planes (…, d, H, W) of a map.

        Raises
        ------
        OutOfSpace
            If the disk is full.
        """
        self._aside.mkdir(exist_ok=True)
        with durable.space_for(self._aside, planes.nbytes):
            if name not in self._bands:
                self._bands[name] = _Band(_create(self._aside, name, planes, self._shape, quantisation))
            self._bands[name].add(planes)

    def publish(self, record: PreviewRecord) -> None:
        """Give the generation its attributes and its name; every map must have all its planes."""
        short = [name for name, band in self._bands.items() if band.filled < self._shape[0]]
        if short or not self._bands:
            raise RuntimeError(f"planes are missing of {short or 'every map'}")
        attributes = {KEY: record.model_dump(mode="json")}
        with durable.space_for(self._aside, 1 << 16):
            (self._aside / "zarr.json").write_bytes(_group(attributes))
            self._aside.rename(self._path)

    def abandon(self) -> None:
        """Delete what was written; nothing after `publish`."""
        shutil.rmtree(self._aside, ignore_errors=True)


class _Band:
    """Planes of one array that do not fill a chunk yet."""

    def __init__(self, array: Any) -> None:
        self._array, self._depth = array, array.chunks[-3]
        self._held: list[NDArray[np.uint8]] = []
        self._written = self._waiting = 0

    @property
    def filled(self) -> int:
        """Planes on disk."""
        return self._written

    def add(self, planes: NDArray[np.uint8]) -> None:
        """Write whole bands, and the rest once the last plane is there."""
        self._held.append(planes)
        self._waiting += planes.shape[-3]
        ready = self._waiting // self._depth * self._depth
        if self._written + self._waiting == self._array.shape[-3]:
            ready = self._waiting
        if ready:
            held = np.concatenate(self._held, axis=-3)
            self._array[..., self._written : self._written + ready, :, :] = held[..., :ready, :, :]
            self._held = [held[..., ready:, :, :].copy()]
            self._written, self._waiting = self._written + ready, self._waiting - ready


def _create(
    folder: Path, name: str, planes: NDArray[np.uint8], shape: ShapeDHW, quantisation: Quantisation
) -> zarr.Array[Any]:
    full = (*planes.shape[:-3], *shape)
    chunks = (1,) * (len(full) - 3) + tuple(min(c, n) for c, n in zip(CHUNK, shape, strict=True))
    return zarr.create_array(
        LocalStore(folder),
        name=name,
        shape=full,
        dtype=np.uint8,
        chunks=chunks,
        compressors=[BloscCodec(cname="lz4", clevel=1, shuffle="noshuffle"), Crc32cCodec()],
        filters=None,
        fill_value=0,
        dimension_names=["c", "z", "y", "x"][-len(full) :],
        attributes={"scale_factor": quantisation.scale, "add_offset": quantisation.offset},
        zarr_format=3,
        config={"write_empty_chunks": True},
    )


def _group(attributes: Mapping[str, Any]) -> bytes:
    group = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    return json.dumps(group, indent=1).encode()
