"""Saving layers: every value is found again at its place in the world, in its dtype, and nothing is lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from napari_crln.errors import (
    CrlnError,
    GridMismatch,
    InvalidIntensity,
    InvalidLabel,
    ProjectError,
    UsageError,
)
from napari_crln.gui import readers, writers

sys.path.insert(0, str(Path(__file__).parent))
from layer_helpers import OBLIQUE, PLACEMENTS, assert_same_world, world_values

layers = pytest.importorskip("napari.layers")
pytestmark = [
    pytest.mark.gui,
    pytest.mark.filterwarnings("ignore:Non-orthogonal slicing"),  # napari, of rotated layers
]
SHAPE = (4, 5, 6)


@pytest.fixture
def values() -> NDArray[np.int16]:
    return np.random.default_rng(0).permutation(4 * 5 * 6).reshape(SHAPE).astype(np.int16)


def _save(layer: Any, path: Path) -> str:
    data, state, kind = layer.as_layer_data_tuple()
    write = writers.write_nifti_image if kind == "image" else writers.write_nifti_labels
    assert write(str(path), data, state) == [str(path)]
    return str(path)


def _opened(path: str) -> Any:
    data, kwargs, kind = readers.read(path)[0]
    return (layers.Labels if kind == "labels" else layers.Image)(data, **kwargs)


@pytest.mark.parametrize("name", PLACEMENTS)
def test_nifti_keeps_every_voxel_at_its_place(name: str, tmp_path: Path, values: NDArray[np.int16]) -> None:
    layer = layers.Image(values, **PLACEMENTS[name])
    again = _opened(_save(layer, tmp_path / "a.nii.gz"))
    assert_same_world(world_values(layer), world_values(again))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64", "float32", "float64"])
def test_nifti_keeps_the_dtype(dtype: str, tmp_path: Path, values: NDArray[np.int16]) -> None:
    path = _save(layers.Image(values.astype(dtype)), tmp_path / "a.nii")
    assert nib.load(path).get_data_dtype() == dtype


def test_a_file_read_and_saved_has_the_identical_header(tmp_path: Path, values: NDArray[np.int16]) -> None:
    image = nib.Nifti1Image(values, OBLIQUE)
    image.set_qform(OBLIQUE, code=2, strip_shears=True)
    image.header["descrip"] = b"a scanner's own words"
    nib.save(image, tmp_path / "a.nii.gz")
    _save(_opened(str(tmp_path / "a.nii.gz")), tmp_path / "b.nii.gz")
    one, two = (nib.load(tmp_path / name) for name in ("a.nii.gz", "b.nii.gz"))
    np.testing.assert_array_equal(one.get_fdata(), two.get_fdata())
    for field in ("sform_code", "qform_code", "srow_x", "quatern_b", "pixdim", "xyzt_units", "descrip"):
        assert one.header[field].tobytes() == two.header[field].tobytes(), field


def test_a_layer_moved_since_is_written_where_it_is_now(tmp_path: Path, values: NDArray[np.int16]) -> None:
    nib.save(nib.Nifti1Image(values, OBLIQUE), tmp_path / "a.nii.gz")
    layer = _opened(str(tmp_path / "a.nii.gz"))
    layer.translate = (1, 0, 0)
    again = _opened(_save(layer, tmp_path / "b.nii.gz"))
    assert_same_world(world_values(layer), world_values(again))


def test_labels_keep_their_values_and_open_as_labels(tmp_path: Path) -> None:
    ids = np.random.default_rng(1).choice([0, 3, 700], SHAPE).astype(np.int32)
    layer = layers.Labels(ids, **PLACEMENTS["flipped"])
    path = _save(layer, tmp_path / "any name.nii.gz")
    assert nib.load(path).get_data_dtype() == np.int32
    again = _opened(path)
    assert isinstance(again, layers.Labels)
    assert_same_world(world_values(layer), world_values(again))


def test_an_existing_file_is_replaced_whole_or_not_at_all(tmp_path: Path, values: NDArray[np.int16]) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"old")
    with pytest.raises(InvalidIntensity):
        _save(layers.Image(values.astype(np.complex64).real[None].repeat(2, axis=0)), path)
    assert path.read_bytes() == b"old"
    _save(layers.Image(values), path)
    np.testing.assert_array_equal(np.sort(nib.load(path).get_fdata(), None), np.arange(values.size))
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize(
    ("layer", "error", "word"),
    [
        (lambda: layers.Image(np.zeros((4, 5, 6, 3), np.uint8), rgb=True), InvalidIntensity, "RGB"),
        (lambda: layers.Image(np.zeros((4, 5))), InvalidIntensity, "three axes"),
        (lambda: layers.Image(np.zeros((2, 4, 5, 6))), InvalidIntensity, "time, channel"),
        (lambda: layers.Image(np.zeros(SHAPE), units=("s", "mm", "mm")), GridMismatch, "second"),
        (lambda: layers.Image(np.zeros(SHAPE), units=("pixel", "um", "um")), GridMismatch, "pixel"),
    ],
)
def test_what_is_no_volume_is_refused(layer: Any, error: type[CrlnError], word: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=word):
        _save(layer(), tmp_path / "a.nii.gz")
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_no_nifti_is_refused(tmp_path: Path, values: NDArray[np.int16]) -> None:
    with pytest.raises(UsageError, match=r"\.nii"):
        _save(layers.Image(values), tmp_path / "a.tif")


# --- OME-Zarr


def _zarr(path: Path, *saved: Any) -> dict[str, Any]:
    writers.write_ome_zarr(str(path), [layer.as_layer_data_tuple() for layer in saved])
    return dict(json.loads((path / "zarr.json").read_text())["attributes"])


def test_ome_zarr_opens_in_ome_zarrs_own_reader_with_labels(tmp_path: Path) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    rng = np.random.default_rng(2)
    voxels, ids = rng.integers(0, 99, (140, 8, 9), np.uint16), rng.integers(0, 3, (140, 8, 9), np.uint8)
    where = PLACEMENTS["micrometres"]
    path = tmp_path / "a.ome.zarr"
    attributes = _zarr(
        path, layers.Image(voxels, name="im", **where), layers.Labels(ids, name="my cells", **where)
    )
    multiscale = attributes["ome"]["multiscales"][0]
    assert {axis["unit"] for axis in multiscale["axes"]} == {"micrometer"}
    scale, translation = multiscale["datasets"][0]["coordinateTransformations"]
    np.testing.assert_allclose(scale["scale"], (2, 0.3, 0.3))
    np.testing.assert_allclose(translation["translation"], (5, 6, 7))
    location = parse_url(path)
    assert location is not None
    nodes = list(Reader(location)())
    np.testing.assert_array_equal(nodes[0].data[0], voxels)
    assert [d.shape for d in nodes[0].data][:2] == [(140, 8, 9), (140, 4, 5)]  # finest axes first
    labels = list(Reader(parse_url(path / "labels" / "my cells"))())  # type: ignore[arg-type]
    assert any(np.array_equal(np.asarray(node.data[0]), ids) for node in labels if node.data)


def test_ome_zarr_of_a_lazy_multiscale_layer_is_its_finest_level(tmp_path: Path) -> None:
    import dask.array as da
    import zarr

    fine = da.random.default_rng(0).integers(0, 9, (8, 8, 8), chunks=4).astype(np.uint8).persist()
    layer = layers.Image([fine, fine[::2, ::2, ::2]], multiscale=True, contrast_limits=(0, 9))
    _zarr(tmp_path / "a.zarr", layer)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr" / "0", mode="r")[:], fine.compute())


def test_a_rotated_layer_keeps_its_affine_beside_ome(tmp_path: Path, values: NDArray[np.int16]) -> None:
    import zarr

    layer = layers.Image(values, **PLACEMENTS["oblique affine"])
    attributes = _zarr(tmp_path / "a.zarr", layer)
    stored = np.asarray(zarr.open_array(tmp_path / "a.zarr" / "0", mode="r")[:])
    flip = [2, 1, 0, 3]
    affine = np.array(attributes["crln"]["affine"])[np.ix_(flip, flip)]
    again = layers.Image(stored, affine=affine, units=("mm",) * 3)
    assert_same_world(world_values(layer), world_values(again))


def test_an_existing_folder_is_never_replaced(tmp_path: Path, values: NDArray[np.int16]) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.txt").write_text("years")
    with pytest.raises(ProjectError, match="exists"):
        _zarr(tmp_path / "a.zarr", layers.Image(values))
    assert (tmp_path / "a.zarr" / "thesis.txt").read_text() == "years"


def test_labels_elsewhere_than_the_image_are_refused(tmp_path: Path, values: NDArray[np.int16]) -> None:
    elsewhere = layers.Labels(values.astype(np.uint8), translate=(5, 0, 0), name="cells")
    with pytest.raises(GridMismatch, match="cells"):
        _zarr(tmp_path / "a.zarr", layers.Image(values), elsewhere)
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize("names", [("a", "a"), ("Organs", "organs"), ("한", "\u1112\u1161\u11ab")])
def test_two_labels_that_some_system_takes_for_one_are_refused(
    names: tuple[str, str], tmp_path: Path
) -> None:
    saved = [layers.Labels(np.zeros((4, 5, 6), np.uint8), name=name) for name in names]
    image = layers.Image(np.zeros((4, 5, 6), np.uint8), name="image")
    with pytest.raises(InvalidLabel, match="two labels layers named"):
        _zarr(tmp_path / "z.zarr", image, *saved)
    assert not (tmp_path / "z.zarr").exists()


def test_labels_alone_carry_colours_and_names(tmp_path: Path) -> None:
    ids = np.zeros(SHAPE, np.uint8)
    ids[1] = 7
    colours = {0: "transparent", 7: "#ff8000", None: "transparent"}
    layer = layers.Labels(ids, colormap=colours, features={"index": [0, 7], "class": ["nothing", "organ"]})
    described = _zarr(tmp_path / "a.zarr", layer)["ome"]["image-label"]
    assert {"label-value": 7, "rgba": [255, 128, 0, 255]} in described["colors"]
    assert {"label-value": 7, "class": "organ"} in described["properties"]
