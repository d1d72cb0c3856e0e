"""What a stored zarr.json may describe: read without Zarr, and refused before Zarr believes it.

The arrays of a project are few in kind: three or four axes of real numbers, chunks of bounded size, compressed by
LZ4 or zstd under CRC32C, in shards or not. Anything else is damage or an attack, such as 2⁴⁰ voxels in a few bytes.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_crln.errors import CorruptData
from napari_crln.small_file import read_small
from napari_crln.volume.guarded import RESTORE
from napari_crln.volume.seal import check_seal

_METADATA_LIMIT = 1 << 20  # bytes of a zarr.json
_CHUNK_LIMIT = 1 << 26  # bytes that one chunk inflates to; ours: 2 MiB
_SHARD_LIMIT = 1 << 30  # bytes of one stored file, inflated; ours: 128 MiB
_FILE_LIMIT = 1 << 24  # stored files of an array
_DTYPES = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_DTYPES |= {"float16", "float32", "float64"}
_COMPRESSED = (["bytes", "blosc", "crc32c"], ["bytes", "zstd", "crc32c"])


class _Grid(BaseModel):
    chunk_shape: tuple[int, ...]


class _ChunkGrid(BaseModel):
    name: str = Field(pattern="^regular$")
    configuration: _Grid


class _Codec(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    configuration: dict[str, Any] = {}


class ArrayDescription(BaseModel):
    """The zarr.json of an array, as far as its size and codecs go."""

    model_config = ConfigDict(extra="ignore")

    zarr_format: int = Field(ge=3, le=3)
    node_type: str = Field(pattern="^array$")
    shape: tuple[int, ...] = Field(min_length=3, max_length=4)
    data_type: str
    chunk_grid: _ChunkGrid
    codecs: list[_Codec] = Field(min_length=1)

    def fault(self) -> str | None:
        """What no array of a project has; None if it is one."""
        if self.data_type not in _DTYPES:
            return f"data type {self.data_type}"
        inner, names, index = _sharding(self.codecs)
        outer = self.chunk_grid.configuration.chunk_shape
        inner = inner or outer
        if not len(self.shape) == len(outer) == len(inner) or min(*self.shape, *outer, *inner) < 1:
            return f"shape {self.shape} in chunks {outer}, {inner}"
        if names not in _COMPRESSED or index not in ([], ["bytes", "crc32c"]):
            return f"codecs {names}"
        files = prod(-(-size // step) for size, step in zip(self.shape, outer, strict=True))
        size = np.dtype(self.data_type).itemsize
        if prod(inner) * size > _CHUNK_LIMIT or prod(outer) * size > _SHARD_LIMIT or files > _FILE_LIMIT:
            return f"{self.shape} voxels, {files} files of {outer} in chunks of {inner}"
        return None


def read_document(folder: Path) -> dict[str, Any]:
    """The zarr.json of a group or an array; its seal holds.

    Raises
    ------
    CorruptData
        If it is missing, no small file, no JSON object with attributes, or not what was sealed.
    """
    try:
        document = dict(json.loads(read_small(folder / "zarr.json", _METADATA_LIMIT)))
        if "shape" not in document or "attributes" in document:  # arrays need none
            document["attributes"] = dict(document["attributes"])
        check_seal(document, folder)
    except (FileNotFoundError, NotADirectoryError):
        raise CorruptData("no zarr.json", "a stored array or group has one", RESTORE, folder) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptData(f"zarr.json: {error!r}", "it is JSON with attributes", RESTORE, folder) from error
    return document


def check_array(document: dict[str, Any], folder: Path) -> None:
    """Refuse a description that no array of a project has; raises CorruptData."""
    try:
        fault = ArrayDescription.model_validate(document).fault()
    except ValidationError as error:
        first = error.errors()[0]
        fault = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (KeyError, TypeError, ValueError) as error:
        fault = f"codecs: {error!r}"
    if fault is not None:
        raise CorruptData(
            f"zarr.json: {fault}", "it describes a Zarr v3 array as a project stores them", RESTORE, folder
        )


def _sharding(codecs: list[_Codec]) -> tuple[tuple[int, ...], list[str], list[str]]:
    """Inner chunk (none: empty), names of the codecs that chunks go through, and those of a shard's index."""
    if [codec.name for codec in codecs] != ["sharding_indexed"]:
        return (), [codec.name for codec in codecs], []
    inside = codecs[0].configuration
    names = [[str(codec["name"]) for codec in inside[key]] for key in ("codecs", "index_codecs")]
    return tuple(int(size) for size in inside["chunk_shape"]), names[0], names[1]
