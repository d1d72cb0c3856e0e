"""Reading Zarr chunks with suspicion: none is missing, links lead nowhere, and nothing inflates beyond its chunk.

Zarr reads a missing chunk as fill value, follows links, and lets a compressed frame decide how much memory it
takes. The store and the codecs here do none of that, whoever slices the array: training, prediction, Dask or napari.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.registry import register_codec
from zarr.storage import LocalStore

from napari_crln.errors import CorruptData

if TYPE_CHECKING:  # names without a promise: a release that moves them does no harm
    from zarr.abc.store import ByteRequest
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, BufferPrototype

RESTORE = "Restore it from a copy, or import the volume again"
_METADATA = "zarr.json"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class GuardedStore(LocalStore):
    """A folder, read only, in which every chunk asked for must exist, as a file of its own and no link.

    Raises
    ------
    CorruptData
        From `get`, and so from slicing the array.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, read_only=True)
        self._inside = Path(folder).resolve()

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Bytes of a stored file, or a range of them."""
        path = self._inside / key
        if path.resolve() != path:
            raise CorruptData(
                f"{key} is a link", "what a project stores lies in the project", RESTORE, self.root
            )
        found = await super().get(key, prototype, byte_range)
        if found is None and not key.endswith(_METADATA):
            raise CorruptData(
                f"chunk {key} is missing", "every chunk of an array is stored", RESTORE, self.root
            )
        return found


def require_hook(codec: type, hook: str = "_decode_single") -> None:
    """See that zarr still decodes by a method that it promises nobody, and that the codecs here override.

    Raises
    ------
    ImportError
        If the codec does not define it: overridden in vain, it would let every bomb through.
    """
    if hook not in vars(codec):
        raise ImportError(
            f"zarr {zarr.__version__} has no {codec.__name__}.{hook}; chunks are guarded against decompression bombs "
            "by it. Install a release that was tested: pip install 'zarr>=3.1.4,<3.2'"
        )


for _codec in (BloscCodec, ZstdCodec):
    require_hook(_codec)


class BoundedBlosc(BloscCodec):
    """Blosc, where a frame that announces more than its chunk holds is refused before it is inflated."""

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        head = chunk_bytes.as_numpy_array()[:16].tobytes()
        _check_announced(int.from_bytes(head[4:8], "little"), chunk_spec)
        return await super()._decode_single(chunk_bytes, chunk_spec)


class BoundedZstd(ZstdCodec):
    """Zstandard, where a frame that announces more than its chunk holds, or nothing, is refused."""

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        announced = zstd_content_size(chunk_bytes.as_numpy_array()[:18].tobytes())
        _check_announced(announced, chunk_spec)
        return await super()._decode_single(chunk_bytes, chunk_spec)


def zstd_content_size(frame: bytes) -> int | None:
    """Bytes that a frame announces; None if it is no frame, or does not say (RFC 8878, 3.1.1.1)."""
    if frame[:4] != _ZSTD_MAGIC or len(frame) < 6:
        return None
    flags = frame[4]
    single_segment, size_code = bool(flags & 0x20), flags >> 6
    width = (1 if single_segment else 0, 2, 4, 8)[size_code]
    start = 5 + (0 if single_segment else 1) + (0, 1, 2, 4)[flags & 3]
    field = frame[start : start + width]
    if not width or len(field) < width:
        return None
    return int.from_bytes(field, "little") + (256 if width == 2 else 0)


def open_guarded(folder: Path) -> zarr.Array[Any]:
    """Open an array lazily through the store and the codecs of this module."""
    names = {"codecs.blosc": _name(BoundedBlosc), "codecs.zstd": _name(BoundedZstd)}
    with zarr.config.set(names):
        return zarr.open_array(GuardedStore(folder), mode="r", zarr_format=3)


def _check_announced(announced: int | None, spec: ArraySpec) -> None:
    held = prod(spec.shape) * spec.dtype.to_native_dtype().itemsize
    if announced is None or announced > held:
        raise ValueError(f"a frame announces {announced} bytes, its chunk holds {held}")


def _name(codec: type) -> str:
    return f"{codec.__module__}.{codec.__qualname__}"


register_codec("blosc", BoundedBlosc, qualname=_name(BoundedBlosc))
register_codec("zstd", BoundedZstd, qualname=_name(BoundedZstd))
