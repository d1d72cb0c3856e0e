from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_crln.errors import CorruptData
from napari_crln.volume.geometry import Grid
from napari_crln.volume.project import Project
from napari_crln.volume.streamed import ChunkCache, StreamedArray, streamed_image

SHAPE = (70, 30, 140)  # 2 × 1 × 3 chunks


@pytest.fixture
def stored(project: Project) -> Project:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60_000, SHAPE).astype(np.uint16)
    project.add("v", image, Grid(SHAPE, np.eye(4)), "unlabelled")
    return project


def test_regions_are_those_of_the_whole(stored: Project) -> None:
    volume, cache = stored.volume("v"), ChunkCache(16)
    image, whole = streamed_image(volume, cache), volume.read_image()
    assert (image.shape, image.dtype) == (SHAPE, np.uint16)
    regions = (
        *(np.s_[3:69, 2:9, 60:130], np.s_[:], np.s_[69:70], np.s_[5, 7], np.s_[0:1, 0:1, 139:140]),
        *(np.s_[64:96], np.s_[-3:], np.s_[2:5, :, -9:-2], np.s_[-1, 3], np.s_[80:90], np.s_[:, :, 100:999]),
    )
    for region in regions:
        np.testing.assert_array_equal(image[region], whole[region])


def test_a_region_is_an_array_of_its_own_and_regions_of_it_too(stored: Project) -> None:
    volume = stored.volume("v")
    part = streamed_image(volume, ChunkCache(16)).within(np.s_[10:60, 5:25, 50:100])
    assert part.shape == (50, 20, 50)
    whole = volume.read_image()[10:60, 5:25, 50:100]
    np.testing.assert_array_equal(part[4:9, :, 20:30], whole[4:9, :, 20:30])
    inner = part.within(np.s_[1:9, 2:8, 3:30])
    np.testing.assert_array_equal(inner[0:2], whole[1:3, 2:8, 3:30])


def test_an_index_beyond_the_array_is_an_error(stored: Project) -> None:
    with pytest.raises(IndexError):
        streamed_image(stored.volume("v"), ChunkCache(16))[70]


def chunk_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "zarr.json")


def test_a_flipped_bit_is_an_error_that_names_the_array(stored: Project) -> None:
    volume = stored.volume("v")
    (file,) = chunk_files(volume.path / "0")
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 4
    file.write_bytes(data)
    with pytest.raises(CorruptData, match=r"v\.zarr.*0"):
        streamed_image(volume, ChunkCache(16))[:]


def test_a_missing_chunk_is_no_zeros(stored: Project) -> None:
    volume = stored.volume("v")
    chunk_files(volume.path / "0")[0].unlink()
    with pytest.raises(CorruptData, match="missing"):
        streamed_image(volume, ChunkCache(16))[0:2]


def test_no_array_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorruptData):
        StreamedArray(tmp_path / "nothing", ChunkCache(16))
