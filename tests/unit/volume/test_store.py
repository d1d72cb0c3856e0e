"""Bytes on disk: flipped bits and missing chunks are found, other tools can read, memory stays bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import zarr

from napari_crln.errors import CorruptData
from napari_crln.volume import memory, pyramid, store
from napari_crln.volume.ome import Content
from napari_crln.volume.pyramid import plan


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layout of several shards with several chunks each, at test size."""
    monkeypatch.setattr(store, "CHUNK", 4)
    monkeypatch.setattr(store, "SHARD", 8)
    monkeypatch.setattr(pyramid, "PREVIEW", 8)


def write(folder: Path, content: Content, dtype: type = np.uint8) -> np.ndarray[Any, Any]:
    data = np.random.default_rng(0).integers(0, 5, (10, 9, 17)).astype(dtype)
    data[:8, :8, :8] = 0  # a whole shard of fill value
    store.write_multiscale(folder, data, plan(data.shape, (1, 1, 1)), content, {})
    return data


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("content", ["image", "label"])
def test_levels_hold_the_volume_and_its_reductions(tmp_path: Path, content: Content) -> None:
    data = write(tmp_path, content)
    np.testing.assert_array_equal(store.read(tmp_path / "0"), data)
    reduce = pyramid.average if content == "image" else pyramid.decimate
    for number in (1, 2):
        data = reduce(data, (2, 2, 2))
        np.testing.assert_array_equal(store.read(tmp_path / str(number)), data)
    assert not (tmp_path / "3").exists()


@pytest.mark.usefixtures("small_chunks")
def test_a_region_is_read_alone(tmp_path: Path) -> None:
    data = write(tmp_path, "image")
    region = slice(3, 9), slice(0, 9), slice(7, 12)
    np.testing.assert_array_equal(store.read(tmp_path / "0", region), data[region])


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("content", ["image", "label"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_flipped_bit_of_a_chunk_file_is_found(tmp_path: Path, content: Content, dtype: type) -> None:
    write(tmp_path, content, dtype)
    path = tmp_path / "0" / "c" / "1" / "0" / "1"
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    here = slice(8, 10), slice(0, 8), slice(8, 16)
    for byte in rng.permutation(len(whole))[:40]:
        flipped = whole[byte] ^ (1 << int(rng.integers(8)))
        path.write_bytes(whole[:byte] + bytes([flipped]) + whole[byte + 1 :])
        with pytest.raises(CorruptData, match="c/1/0/1 fails its checksum") as caught:
            store.read(tmp_path / "0", here)
        assert str(tmp_path / "0") in str(caught.value)
    path.write_bytes(whole)
    store.read(tmp_path / "0")


@pytest.mark.parametrize("content", ["image", "label"])
def test_flips_in_a_single_unsharded_chunk_are_found(tmp_path: Path, content: Content) -> None:
    write(tmp_path, content)
    path = tmp_path / "0" / "c" / "0" / "0" / "0"
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 37):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with pytest.raises(CorruptData, match="c/0/0/0"):
            store.read(tmp_path / "0")


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("content", ["image", "label"])
def test_a_missing_chunk_is_never_zeros(tmp_path: Path, content: Content) -> None:
    write(tmp_path, content)
    (tmp_path / "0" / "c" / "0" / "0" / "0").unlink()  # it held nothing but zeros
    with pytest.raises(CorruptData, match="chunk c/0/0/0 is missing"):
        store.read(tmp_path / "0")
    store.read(tmp_path / "0", (slice(8, 10), slice(0, 9), slice(0, 17)))  # elsewhere all is well


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("content", ["image", "label"])
def test_what_reading_the_whole_finds_verifying_by_parts_finds(
    tmp_path: Path, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = np.random.default_rng(0).integers(0, 5, (2, 10, 9, 17)).astype(np.uint8)
    store.write_multiscale(tmp_path, channels, plan(channels.shape[1:], (1, 1, 1)), content, {})
    with monkeypatch.context() as patched:
        patched.setattr(memory, "available", lambda **_: 8**3)
        store.verify(tmp_path / "0")
    path = tmp_path / "0" / "c" / "1" / "1" / "0" / "2"
    whole = path.read_bytes()
    for damage in (lambda: path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1])), path.unlink):
        damage()
        with pytest.raises(CorruptData, match="c/1/1/0/2") as read:
            store.read(tmp_path / "0")
        with pytest.raises(CorruptData) as verified:
            store.verify(tmp_path / "0")
        assert str(verified.value) == str(read.value)


def test_parts_make_up_the_whole() -> None:
    seen = np.zeros((2, 300, 20, 257), np.uint8)
    for part in store.parts(seen.shape):
        assert seen[part].size <= store.SHARD**3
        seen[part] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"attributes": 3}'])
def test_broken_metadata_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "zarr.json").write_text(text)
    with pytest.raises(CorruptData, match=r"zarr\.json"):
        store.read_attributes(tmp_path)
    with pytest.raises(CorruptData, match=r"zarr\.json"):
        store.read(tmp_path)


def test_absent_metadata_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptData, match=r"no zarr\.json"):
        store.read_attributes(tmp_path)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("content", ["image", "label"])
def test_tensorstore_and_zarr_read_the_same(tmp_path: Path, content: Content) -> None:
    data = write(tmp_path, content, np.uint16)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "0")}}
    np.testing.assert_array_equal(ts.open(spec).result().read().result(), data)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "0", mode="r")[:], data)


def test_codecs_and_layout_are_as_documented(tmp_path: Path) -> None:
    big = np.zeros((70, 300, 130), np.uint8)
    levels = plan(big.shape, (1, 1, 1))
    store.write_multiscale(tmp_path / "i", big, levels, "image", {})
    store.write_multiscale(tmp_path / "l", big, levels, "label", {})
    for name, codecs in (("i", ["bytes", "blosc", "crc32c"]), ("l", ["bytes", "zstd", "crc32c"])):
        meta = json.loads((tmp_path / name / "0" / "zarr.json").read_text())
        assert meta["chunk_grid"]["configuration"]["chunk_shape"] == [128, 256, 192]
        shard = meta["codecs"][0]["configuration"]
        assert shard["chunk_shape"] == [64, 64, 64]
        assert [codec["name"] for codec in shard["codecs"]] == codecs
        assert [codec["name"] for codec in shard["index_codecs"]] == ["bytes", "crc32c"]
        assert meta["dimension_names"] == ["z", "y", "x"]


@pytest.mark.usefixtures("small_chunks")
def test_data_is_taken_tile_by_tile(tmp_path: Path) -> None:
    class Lazy:
        """An array that may only be sliced: one that does not fit in memory."""

        shape, dtype, ndim, most = (33, 5, 20), np.dtype(np.int16), 3, 0

        def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray[Any, Any]:
            assert key[0] is Ellipsis
            d, h, w = (np.arange(s.start, s.stop, dtype=np.int16) for s in key[1:])
            self.most = max(self.most, len(d) * len(h) * len(w))
            return 400 * d[:, None, None] + 20 * h[:, None] + w

    lazy = Lazy()
    store.write_multiscale(tmp_path, lazy, plan(lazy.shape, (1, 1, 1)), "image", {})  # type: ignore[arg-type]
    assert 0 < lazy.most <= store.SHARD**3
    d, h, w = np.indices(lazy.shape)
    np.testing.assert_array_equal(store.read(tmp_path / "0"), 400 * d + 20 * h + w)


def test_channels_lead(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((3, 130, 4, 5), dtype=np.float32)
    store.write_multiscale(tmp_path, data, plan((130, 4, 5), (1, 1, 1)), "image", {})
    np.testing.assert_array_equal(store.read(tmp_path / "0"), data)
    assert store.open_array(tmp_path / "1").shape == (3, 65, 2, 3)
