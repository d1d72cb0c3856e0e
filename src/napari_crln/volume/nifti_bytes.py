"""The bytes of a NIfTI file: a gzip stream read to its end, so that its checksum and length are verified.

nibabel stops at the last voxel and so never meets gzip's CRC. Here everything is read, but never more than the
header announces plus a little, and that is compared with the memory there is first: a small file cannot ask for
all of it. Pipes and devices are refused, as they might never end.
"""

from __future__ import annotations

import gzip
import io
import stat
import zlib
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from napari_crln.errors import UnreadableFile
from napari_crln.volume.memory import check_memory

_PIECE = 1 << 22
_TRAILING = 1 << 20  # bytes after the voxels that are read (and ignored) before a file counts as malformed
_DEFLATE = 1032  # deflate shrinks at most by this factor: a header that asks for more is truncated or lies


def is_nifti(path: Path) -> bool:
    """Whether the name ends in .nii or .nii.gz, in any case."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_voxels(path: Path) -> tuple[nib.Nifti1Header, NDArray[Any]]:
    """Header and raw voxels (file order, no scaling). An uncompressed file is mapped, not loaded.

    Raises
    ------
    UnreadableFile
        If the file is missing, truncated, fails gzip's CRC, or is no NIfTI.
    OutOfMemory
        If it is compressed and holds more than fits; nothing was taken then.
    """
    with _readable(path) as stream:
        header, block = _header(stream, path)
        offset, dtype = _data_offset(header, path), header.get_data_dtype()
        shape = tuple(int(n) for n in header["dim"][1 : 1 + int(header["dim"][0])])
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        _check_length(path, offset + size)
        if not _compressed(path):
            return header, np.memmap(path, dtype, "r", offset, shape, order="F")
        check_memory(size, "the image inside", "Decompress it to .nii, which is mapped, not loaded", path)
        _skip(stream, offset - len(block), path)
        data = _read(stream, size, path)
        _read_to_end(stream, path)
    return header, np.ndarray(shape, dtype, data, order="F")


def _header(stream: IO[bytes], path: Path) -> tuple[nib.Nifti1Header, bytes]:
    block = _read(stream, 348, path)
    if int.from_bytes(block[:4], "little") == 540 or int.from_bytes(block[:4], "big") == 540:
        block += _read(stream, 192, path)
        kind: type[nib.Nifti1Header] = nib.Nifti2Header
    else:
        kind = nib.Nifti1Header
    header = kind.from_fileobj(io.BytesIO(block), check=False)
    magic = bytes(header["magic"].tobytes())[:4]
    expected = b"n+2\0" if kind is nib.Nifti2Header else b"n+1\0"
    if int(header["sizeof_hdr"]) != len(block) or magic != expected:
        raise _malformed(path, f"header of size {int(header['sizeof_hdr'])}, magic {magic!r}")
    _check_fields(header, path)
    return header, bytes(block)


def _check_fields(header: nib.Nifti1Header, path: Path) -> None:
    axes = int(header["dim"][0])
    if not 1 <= axes <= 7 or (header["dim"][1 : 1 + axes] < 1).any():
        raise _malformed(path, f"dim {header['dim'].tolist()}")
    try:
        header.get_data_dtype()
    except (nib.spatialimages.HeaderDataError, KeyError):
        raise _malformed(path, f"data type code {int(header['datatype'])}") from None


def _data_offset(header: nib.Nifti1Header, path: Path) -> int:
    """Where voxels begin; some writers leave 0 for "right after the header"."""
    first, offset = int(header["sizeof_hdr"]) + 4, float(header["vox_offset"])
    if offset == 0:
        return first
    if not (first <= offset < 1 << 31 and offset.is_integer()):
        raise _malformed(path, f"vox_offset {offset:g}")
    return int(offset)


def _check_length(path: Path, needed: int) -> None:
    """Refuse, before any memory is taken, a file that cannot hold what its header announces."""
    present = path.stat().st_size
    if present * (_DEFLATE if _compressed(path) else 1) < needed:
        raise _truncated(path, f"{present} bytes on disk for {needed} announced")


class _Reading:
    """An open file whose low-level faults come out as UnreadableFile."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> IO[bytes]:
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise _malformed(self.path, "no regular file")
            self.stream: IO[bytes] = (
                gzip.open(self.path, "rb") if _compressed(self.path) else self.path.open("rb")  # type: ignore[assignment]
            )
        except OSError as error:
            raise _unopened(self.path, error) from error
        return self.stream

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.stream.close()
        if isinstance(error, EOFError):
            raise _truncated(self.path, "the gzip stream ends early") from error
        if isinstance(error, gzip.BadGzipFile | zlib.error):
            raise _corrupt(self.path, error) from error
        if isinstance(error, OSError):
            raise _unopened(self.path, error) from error


def _readable(path: Path) -> _Reading:
    if not is_nifti(path):
        raise UnreadableFile(
            f"name {path.name!r}", "NIfTI files end in .nii or .nii.gz", "Convert or rename the file", path
        )
    return _Reading(path)


def _compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _read(stream: IO[bytes], size: int, path: Path) -> bytearray:
    """Exactly `size` bytes, taking memory only as they arrive."""
    data = bytearray()
    while len(data) < size:
        piece = stream.read(min(_PIECE, size - len(data)))
        if not piece:
            raise _truncated(path, f"{size - len(data)} bytes are missing")
        data += piece
    return data


def _skip(stream: IO[bytes], size: int, path: Path) -> None:
    """Pass over bytes, holding few of them."""
    while size > 0:
        size -= len(_read(stream, min(_PIECE, size), path))


def _read_to_end(stream: IO[bytes], path: Path) -> None:
    if len(stream.read(_TRAILING)) == _TRAILING:
        raise _malformed(path, f"more than {_TRAILING} bytes after the voxels")


def _unopened(path: Path, error: OSError) -> UnreadableFile:
    return UnreadableFile(
        error.strerror or str(error), "the file can be read", "Check its path and permissions", path
    )


def _truncated(path: Path, value: str) -> UnreadableFile:
    return UnreadableFile(
        f"truncated: {value}", "a file holds all the voxels of its header", "Copy or download it again", path
    )


def _corrupt(path: Path, error: BaseException) -> UnreadableFile:
    return UnreadableFile(
        f"corrupt: {error}",
        "a gzip stream matches its checksum and length",
        "Copy or download it again",
        path,
    )


def _malformed(path: Path, value: str) -> UnreadableFile:
    return UnreadableFile(
        value, "a NIfTI-1 or NIfTI-2 single file has a valid header", "Convert the image to NIfTI again", path
    )
