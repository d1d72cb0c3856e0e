"""Small files that announce terabytes: refused before memory is taken, in a process that has little."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import nibabel as nib
import numcodecs
import numpy as np
import pytest
from playground import TABLE, ids, nifti_header, packed, save, voxels

from napari_crln.volume.geometry import Grid
from napari_crln.volume.guarded import zstd_content_size
from napari_crln.volume.project import Project

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
HUGE = 1 << 40
SCRIPT = Path(__file__).with_name("bombed.py")
SOURCE = Path(__file__).parents[3] / "src"
#: What refusing may cost, bytes; the room left is 512 MiB.
MODEST = 48 << 20


class Met(NamedTuple):
    """What became of a bomb."""

    kind: str
    message: str
    grown: int


def _zeros(count: int) -> bytes:
    """A gzip stream of so many zeros, multiples of 64 MiB, in members: a thousandth of their size."""
    return packed(bytes(64 << 20)) * (count >> 26)


def _nifti2(shape: tuple[int, ...]) -> bytes:
    header = nib.Nifti2Header()
    header.set_data_dtype(np.uint8)
    header["dim"] = [3, *shape, 1, 1, 1, 1]
    header["vox_offset"], header["magic"] = 544, b"n+2"
    header["pixdim"][1:4] = 1
    return bytes(header.binaryblock) + bytes(4)


def _niftis(folder: Path) -> None:
    image = nifti_header()
    (folder / "endless.nii.gz").write_bytes(packed(image + bytes(64)) + _zeros(2 << 30))
    large = nifti_header(dim=[3, 1290, 1290, 1290, 1, 1, 1, 1])
    (folder / "honest.nii.gz").write_bytes(packed(large) + _zeros(2 << 30))  # it would indeed inflate to 2 GB
    (folder / "dims-32767.nii.gz").write_bytes(packed(nifti_header(dim=[7] + [32767] * 7)))
    (folder / "dims-32767.nii").write_bytes(nifti_header(dim=[7] + [32767] * 7))
    (folder / "dims-2-40.nii.gz").write_bytes(packed(_nifti2((HUGE, HUGE, HUGE))))
    (folder / "dims-2-40.nii").write_bytes(_nifti2((HUGE, 1, 1)))
    (folder / "dims-2-62.nii").write_bytes(_nifti2((1 << 62, 4, 1)))  # wraps to 0 in 64 bits
    (folder / "offset.nii.gz").write_bytes(packed(nifti_header(vox_offset=2.0**30)) + _zeros(1 << 30))


def _described(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change an array's zarr.json as a forger would: without its seal."""
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"].pop("crln", None)
    change(document)
    (path / "zarr.json").write_text(json.dumps(document))


def _with_crc(frame: bytes) -> bytes:
    return frame + struct.pack("<I", google_crc32c.value(frame))


def _shape(*shape: int) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(shape=list(shape))


def _chunks(*shape: int) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["shape"] = list(shape)
        document["chunk_grid"]["configuration"]["chunk_shape"] = list(shape)

    return change


def _one_chunk(path: Path) -> Path:
    return path / "c" / "0" / "0" / "0"


#: A label's chunk of zeros, 4 GiB of them, in a few bytes: zstd repeats a block of 128 KiB.
ZSTD_BOMB = (
    b"\x28\xb5\x2f\xfd"
    + bytes([0xE0])
    + struct.pack("<Q", 1 << 32)
    + b"\x02\x00\x10\x00" * 4
    + b"\x03\x00\x10\x00"
)
#: Without its size: the decoder would ask as it goes.
ZSTD_SILENT = b"\x28\xb5\x2f\xfd" + bytes([0x00, 0x70]) + b"\x02\x00\x10\x00" * 4 + b"\x03\x00\x10\x00"


def _blosc_bomb() -> bytes:
    """LZ4 in Blosc of 400 MB of zeros."""
    return bytes(numcodecs.Blosc(cname="lz4", clevel=9).encode(np.zeros(400 << 20, np.uint8)))


def _zarrs(project: Project) -> None:
    labelled = project.volumes["a"].path

    def copy(name: str, part: str = "0") -> Path:
        target = labelled.with_name(f"{name}.zarr")
        shutil.copytree(labelled, target)
        return target / part

    _described(copy("shape"), _shape(HUGE, HUGE, HUGE))
    _described(copy("long"), _shape(HUGE, 20, 18))
    _described(copy("chunks"), _chunks(HUGE, HUGE, HUGE))
    _described(copy("wide"), _chunks(1 << 20, 1 << 20, 1))
    _described(copy("negative"), _shape(-HUGE, 20, 18))
    _one_chunk(copy("blosc")).write_bytes(_with_crc(_blosc_bomb()))
    _one_chunk(copy("zstd", "labels/annotation/0")).write_bytes(_with_crc(ZSTD_BOMB))
    _one_chunk(copy("silent", "labels/annotation/0")).write_bytes(_with_crc(ZSTD_SILENT))
    deep = copy("deep") / "zarr.json"
    deep.write_text('{"attributes": ' + "[" * 200_000 + "]" * 200_000 + "}")
    text = (project.path / "project.toml").read_text()
    names = ["shape", "long", "chunks", "wide", "negative", "blosc", "zstd", "silent", "deep"]
    added = "".join(f'\n[[volumes]]\nname = "{name}"\nrole = "labelled"\n' for name in names)
    (project.path / "project.toml").write_text(text + added)


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Met]:
    """Every bomb, met in one process with 512 MiB of room."""
    folder = tmp_path_factory.mktemp("bombs")
    project = Project.create(folder / "p.crln", TABLE)
    label = TABLE.encode(ids().T)
    project.add("a", voxels().T, Grid.from_spacing(label.shape), "labelled", label)  # type: ignore[arg-type]
    (folder / "warm").mkdir()
    shutil.copytree(folder / "p.crln", folder / "warm" / "p.crln")
    save(folder / "warm" / "up.nii.gz", voxels())
    _niftis(folder)
    _zarrs(project)
    (folder / "manifest").mkdir()
    (folder / "manifest" / "project.toml").write_text("a = " + "[" * 100_000)
    (folder / "list").mkdir()
    (folder / "list" / "dataset.json").write_text("[" * 200_000)
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder)]
    reply = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert reply.returncode == 0, reply.stderr[-2000:]
    lines = [json.loads(line) for line in reply.stdout.splitlines()]
    return {line["name"]: Met(line["kind"], line["message"], line["grown"]) for line in lines}


BOMBS = {
    "endless.nii.gz": "after the voxels",
    "honest.nii.gz": "2146689000 bytes and",
    "dims-32767.nii.gz": "truncated",
    "dims-32767.nii": "truncated",
    "dims-2-40.nii.gz": "truncated",
    "dims-2-40.nii": "truncated",
    "dims-2-62.nii": "truncated",
    "shape read": "1099511627776",
    "shape lazily": "1099511627776",
    "long lazily": "1099511627776",
    "chunks read": "1099511627776",
    "wide lazily": "1048576",
    "negative read": "-1099511627776",
    "blosc read": "announces 419430400 bytes, its chunk holds 7920",
    "blosc lazily": "announces 419430400 bytes, its chunk holds 7920",
    "zstd labels": "announces 4294967296 bytes, its chunk holds 7920",
    "silent labels": "announces None bytes",
    "deep read": "RecursionError",
    "project.toml": "not TOML",
    "dataset.json": "not JSON",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_before_memory_is_taken(met: dict[str, Met], bomb: str) -> None:
    kind, message, grown = met[bomb]
    assert kind in {"UnreadableFile", "CorruptData", "OutOfMemory", "ProjectError"}, (kind, message)
    assert BOMBS[bomb] in message
    assert grown < MODEST, f"{grown >> 20} MiB were taken"


def test_what_is_sound_is_read_in_the_same_room(met: dict[str, Met]) -> None:
    assert met["a read"].kind == met["a lazily"].kind == met["a labels"].kind == "none"
    assert met["offset.nii.gz"].kind == "none", "a gigabyte before the voxels is passed over"
    assert met["offset.nii.gz"].grown < MODEST
    assert met["zstd read"].kind == "none", "only its labels are a bomb"


def test_the_bombs_are_live() -> None:
    """Unguarded codecs would indeed take what the frames announce."""
    assert len(numcodecs.Blosc().decode(_blosc_bomb())) == 400 << 20
    unpacked = zlib.decompressobj(31)
    assert len(unpacked.decompress(_zeros(64 << 20), 1 << 20)) == 1 << 20
    assert zstd_content_size(ZSTD_BOMB) == 1 << 32
    assert zstd_content_size(ZSTD_SILENT) is None


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_791, 65_792, 1 << 20])
def test_the_size_that_a_frame_announces_is_read_right(size: int) -> None:
    assert zstd_content_size(bytes(numcodecs.Zstd(checksum=True).encode(bytes(size)))) == size
