"""Arrays on disk: Zarr v3, small chunks in shards, every chunk under a checksum.

Images: LZ4 with bitshuffle, then CRC32C (Zarr's default codecs return a flipped bit in silence). Labels: zstd
with its checksum, and CRC32C because zstd's own does not cover the frame's header. Chunks of fill value are
written too, so that a missing file is a fault and never passes for zeros. What is edited in place (annotations) has
no shards: a chunk is a file, so that a stroke of the brush rewrites a few of them. Descriptions are sealed (`seal`),
and what is read is read with suspicion (`described`, `guarded`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore

from napari_crln.durable import replacing
from napari_crln.errors import CorruptData
from napari_crln.types import ShapeDHW
from napari_crln.volume import pyramid
from napari_crln.volume.described import check_array, read_document
from napari_crln.volume.guarded import RESTORE, open_guarded
from napari_crln.volume.memory import check_memory
from napari_crln.volume.ome import Content
from napari_crln.volume.pyramid import Level
from napari_crln.volume.seal import KEY, SEAL, sealed

CHUNK = 64  # voxels an axis: what is decoded for one voxel
SHARD = 256  # voxels an axis: what is one file
Region = tuple[slice, ...]


class CheckedArray(zarr.Array[Any]):
    """A lazy array: what is wrong with a chunk that a slice meets comes out as CorruptData, array and chunk named."""

    def __getitem__(self, selection: Any) -> Any:
        try:
            return super().__getitem__(selection)
        except (CorruptData, IndexError, MemoryError, PermissionError):
            raise
        except Exception as error:
            raise self._located(error) from error

    def _located(self, error: Exception) -> CorruptData:
        """Find a chunk file that fails, by reading one at a time."""
        folder = Path(getattr(self.store, "root", ""))
        for key, place in _chunks(self, None):
            try:
                super().__getitem__(place)
            except Exception as found:
                return CorruptData(
                    f"chunk {key} fails its checksum ({found})", "stored bytes never change", RESTORE, folder
                )
        return CorruptData(f"it cannot be read ({error})", "stored bytes never change", RESTORE, folder)


def write_group(folder: Path, attributes: dict[str, Any]) -> None:
    """Write a group's zarr.json, whole or not at all; what is in the group stays."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "zarr.json") as aside:
        aside.write_text(group_json(attributes), "utf-8")


def write_multiscale(
    folder: Path,
    data: NDArray[Any],
    levels: Sequence[Level],
    content: Content,
    attributes: dict[str, Any],
    *,
    sharded: bool = True,
) -> None:
    """Write a group with one array a level, from data of (…, D, H, W) that can be sliced.

    Tile by tile, at most a shard each, so `data` may be a memory map or a Zarr array larger than memory.
    The folder is one that is still to be renamed: nothing in it is synced here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zarr.json").write_text(group_json(attributes), "utf-8")
    lead, dtype = tuple(data.shape[:-3]), np.dtype(data.dtype)
    finer: Any = data
    for number, level in enumerate(levels):
        array = _create(LocalStore(folder), str(number), lead + level.shape, dtype, content, sharded=sharded)
        reduce = pyramid.average if content == "image" else pyramid.decimate
        for tile in _tiles(level.shape, _tile_size(level.shape)):
            array[(..., *tile)] = _coarser(finer, tile, level.factors, reduce)
        _seal_array(folder / str(number))
        finer = array


def read_attributes(folder: Path) -> dict[str, Any]:
    """Attributes of a group or array, less the seal, without opening it through Zarr: cheap enough for hundreds."""
    attributes = dict(read_document(folder).get("attributes") or {})
    if isinstance(attributes.get(KEY), dict):
        attributes[KEY] = {name: value for name, value in attributes[KEY].items() if name != SEAL}
    return attributes


def open_array(folder: Path) -> zarr.Array[Any]:
    """Open an array lazily, for reading; slicing it checks what is met.

    Raises
    ------
    CorruptData
        If its zarr.json is missing, damaged, or describes no array of a project; and when sliced.
    """
    check_array(read_document(folder), folder)
    try:
        return CheckedArray(open_guarded(folder).async_array)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CorruptData(f"zarr.json: {error}", "it describes a Zarr v3 array", RESTORE, folder) from error


def open_levels(folder: Path) -> list[zarr.Array[Any]]:
    """All levels of a multiscale, lazily, finest first: folders 0, 1, 2 … whatever paths its metadata name."""
    levels = [open_array(folder / "0")]
    while (folder / str(len(levels))).is_dir():
        levels.append(open_array(folder / str(len(levels))))
    return levels


def read(folder: Path, region: Region | None = None) -> NDArray[Any]:
    """Read an array, or a region of it, checking every chunk that is met.

    Raises
    ------
    CorruptData
        If a chunk is missing or does not match its checksum; array and chunk file are named.
    OutOfMemory
        If the region does not fit in memory; nothing was taken then.
    """
    array = open_array(folder)
    _check_present(array, region, folder)
    check_memory(_bytes(array, region), "the array", "Read a region of it, or use a larger machine", folder)
    return np.asarray(array[region if region is not None else ...])


def verify(folder: Path) -> None:
    """Read an array part by part, checking every chunk: also one that is larger than memory; errors as of `read`."""
    array = open_array(folder)
    _check_present(array, None, folder)
    for part in parts(array.shape):
        check_memory(_bytes(array, part), "a part of the array", "Use a larger machine", folder)
        array[part]


def parts(shape: tuple[int, ...]) -> Iterator[Region]:
    """Regions that make up an array of (…, D, H, W), in the order of its voxels, none larger than a shard."""
    for lead in product(*map(range, shape[:-3])):
        for tile in _tiles((shape[-3], shape[-2], shape[-1]), (SHARD,) * 3):
            yield *(slice(index, index + 1) for index in lead), *tile


def has_shards(folder: Path) -> bool:
    """Whether `changed_chunks` cannot work on an array: it was not written to be edited."""
    array = open_array(folder)
    return array.shards is not None or array.chunks != _layout(array.shape)[0]


def changed_chunks(folder: Path, start: Sequence[int], values: NDArray[Any]) -> dict[str, bytes]:
    """Content by key of each chunk that would change were `values` pasted in at `start`.

    Parameters
    ----------
    folder : a label array (D, H, W) without shards
    """
    array = open_array(folder)
    box = tuple(slice(s, s + n) for s, n in zip(start, values.shape, strict=True))
    aligned = tuple(
        slice(b.start // c * c, min(-(-b.stop // c) * c, n))
        for b, c, n in zip(box, array.chunks, array.shape, strict=True)
    )
    before = read(folder, aligned)
    inner = tuple(slice(b.start - a.start, b.stop - a.start) for a, b in zip(aligned, box, strict=True))
    after = before.copy()
    after[inner] = values
    encoded: dict[str, Any] = {}
    aside = _create(MemoryStore(encoded), "new", array.shape, array.dtype, "label", sharded=False)
    for tile in _tiles(after.shape, array.chunks):
        if not np.array_equal(before[tile], after[tile]):
            place = tuple(
                slice(a.start + t.start, a.start + t.stop) for a, t in zip(aligned, tile, strict=True)
            )
            aside[place] = after[tile]
    files = {key: value.to_bytes() for key, value in encoded.items() if key.startswith("new/c/")}
    return {key.removeprefix("new/"): content for key, content in files.items()}


def _check_present(array: Any, region: Region | None, folder: Path) -> None:
    missing = next((key for key, _ in _chunks(array, region) if not (folder / key).exists()), None)
    if missing is not None:
        raise CorruptData(f"chunk {missing} is missing", "every chunk of an array is stored", RESTORE, folder)


def _bytes(array: Any, region: Region | None) -> int:
    spans = region if region is not None else (slice(None),) * array.ndim
    voxels = prod(len(range(*s.indices(n))) for s, n in zip(spans, array.shape, strict=True))
    return voxels * int(array.dtype.itemsize)


def group_json(attributes: dict[str, Any]) -> str:
    """A group's zarr.json, sealed if it holds attributes of ours."""
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(sealed(document) if KEY in attributes else document, indent=2)


def _seal_array(folder: Path) -> None:
    """Seal the description that Zarr wrote; the folder is still to be renamed."""
    path = folder / "zarr.json"
    path.write_text(json.dumps(sealed(json.loads(path.read_text("utf-8"))), indent=2), "utf-8")


def _create(
    store: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], content: Content, *, sharded: bool
) -> Any:
    chunks, shards = _layout(shape)
    codecs: list[Any] = (
        [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec()]
        if content == "image"
        else [ZstdCodec(level=3, checksum=True), Crc32cCodec()]
    )
    return zarr.create_array(
        store,
        name=name,
        shape=shape,
        dtype=dtype,
        chunks=chunks,
        shards=shards if sharded else None,
        compressors=codecs,
        filters=None,
        fill_value=0,
        dimension_names=["c", "z", "y", "x"][-len(shape) :],
        zarr_format=3,
        config={"write_empty_chunks": True},
    )


def _layout(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Chunk and shard shape: one chunk for what is small, no shard where it would hold a single chunk."""
    lead = (1,) * (len(shape) - 3)
    chunk = tuple(min(CHUNK, size) for size in shape[-3:])
    shard = tuple(min(SHARD, -(-size // c) * c) for size, c in zip(shape[-3:], chunk, strict=True))
    return lead + chunk, None if shard == chunk else lead + shard


def _tile_size(shape: ShapeDHW) -> tuple[int, ...]:
    """What is written at once: a shard, or as many chunks."""
    chunks, shards = _layout(shape)
    return shards or chunks


def _tiles(shape: ShapeDHW, size: Sequence[int]) -> Iterator[Region]:
    """Boxes of a size, in the order of the voxels."""
    for corner in product(*(range(0, length, step) for length, step in zip(shape, size, strict=True))):
        ends = (min(c + s, length) for c, s, length in zip(corner, size, shape, strict=True))
        yield tuple(slice(start, stop) for start, stop in zip(corner, ends, strict=True))


def _coarser(finer: Any, tile: Region, factors: tuple[int, int, int], reduce: Any) -> NDArray[Any]:
    """A tile of a level, from the level before it; by bands of a chunk's depth, so that little is held."""
    if factors == (1, 1, 1):
        return np.ascontiguousarray(finer[(..., *tile)])
    rows = tile[-3]
    starts = range(rows.start, rows.stop, CHUNK)
    bands = (slice(start, min(start + CHUNK, rows.stop)) for start in starts)
    return np.concatenate([_reduced(finer, (band, *tile[1:]), factors, reduce) for band in bands], axis=-3)


def _reduced(finer: Any, tile: Region, factors: tuple[int, int, int], reduce: Any) -> NDArray[Any]:
    source = tuple(slice(s.start * f, s.stop * f) for s, f in zip(tile, factors, strict=True))
    block = np.asarray(finer[(..., *source)])
    parts = [reduce(part, factors) for part in block.reshape(-1, *block.shape[-3:])]
    return np.stack(parts).reshape(*block.shape[:-3], *parts[0].shape)


def _chunks(array: Any, region: Region | None) -> Iterator[tuple[str, Region]]:
    """Key and place of every stored file that a region touches."""
    size = array.shards or array.chunks
    spans = region if region is not None else (slice(None),) * array.ndim
    limits = [span.indices(length) for span, length in zip(spans, array.shape, strict=True)]
    ranges = [range(low // c, -(-high // c)) for (low, high, _), c in zip(limits, size, strict=True)]
    for index in product(*ranges):
        place = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, size, strict=True))
        yield array.metadata.encode_chunk_key(index), place
