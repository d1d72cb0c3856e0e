"""The NIfTI reader of napari: right place, right values, right kind of layer, honest refusal."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from napari_crln.errors import VolumeError
from napari_crln.gui.readers import get_reader, read

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("CRLN_DATA", ROOT.parent / "shared" / "data"))
OBLIQUE = np.array(
    [[0.0, -0.8, 0.1, 12.0], [0.7, 0.0, 0.0, -5.0], [0.0, 0.2, 1.9, 30.0], [0.0, 0.0, 0.0, 1.0]]
)  # axes permuted and flipped, slightly oblique


def _write(
    path: Path, values: NDArray[np.generic], affine: NDArray[np.float64] = OBLIQUE, **header: object
) -> str:
    image = nib.Nifti1Image(values, affine)
    for key, value in header.items():
        image.header[key] = value
    path.parent.mkdir(exist_ok=True)
    nib.save(image, path)
    return str(path)


@pytest.fixture
def values() -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-500, 500, (5, 6, 7)).astype(np.int16)


def test_every_voxel_lies_where_the_file_says(tmp_path: Path, values: NDArray[np.int16]) -> None:
    """World position and value of each voxel, through napari's affine, equal those of nibabel."""
    data, kwargs, kind = read(_write(tmp_path / "a.nii.gz", values))[0]
    assert kind == "image"
    index = np.indices(data.shape).reshape(3, -1)
    zyx = kwargs["affine"][:3, :3] @ index + kwargs["affine"][:3, 3:]
    in_file = np.linalg.inv(OBLIQUE) @ np.vstack([zyx[::-1], np.ones(zyx.shape[1])])
    i, j, k = np.rint(in_file[:3]).astype(int)
    np.testing.assert_allclose(in_file[:3], [i, j, k], atol=1e-4)
    np.testing.assert_array_equal(data.ravel(), values[i, j, k])


def test_stored_dtype_is_kept_and_scaling_applied(tmp_path: Path, values: NDArray[np.int16]) -> None:
    plain = read(_write(tmp_path / "a.nii", values))[0][0]
    assert plain.dtype == np.int16
    image = nib.Nifti1Image(values, OBLIQUE)
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "b.nii")
    # nibabel rescales on saving: read what the file means with nibabel itself
    expected = nib.load(tmp_path / "b.nii").get_fdata()
    scaled = read(str(tmp_path / "b.nii"))[0][0]
    np.testing.assert_allclose(np.sort(scaled, axis=None), np.sort(expected, axis=None), rtol=1e-5)


@pytest.mark.parametrize("name", ["labelsTr/a.nii.gz", "x/a_seg.nii", "x/a-label.nii.gz", "x/mask.nii"])
def test_files_named_as_labels_open_as_labels(tmp_path: Path, name: str) -> None:
    labels = np.random.default_rng(1).integers(0, 3, (5, 6, 7)).astype(np.float32)
    data, kwargs, kind = read(_write(tmp_path / name, labels))[0]
    assert kind == "labels"
    assert data.dtype == np.uint8
    assert "contrast_limits" not in kwargs


def test_intent_code_makes_labels(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.nii", np.ones((4, 4, 4), np.uint8), intent_code=1002)
    assert read(path)[0][2] == "labels"


@pytest.mark.parametrize("low", [-1.0, 0.5])
def test_what_cannot_be_labels_opens_as_image_whatever_its_name(tmp_path: Path, low: float) -> None:
    volume = np.full((4, 4, 4), 2.0, np.float32)
    volume[0, 0, 0] = low
    assert read(_write(tmp_path / "a_seg.nii", volume))[0][2] == "image"


def test_a_constant_image_gets_limits_that_napari_takes(tmp_path: Path) -> None:
    low, high = read(_write(tmp_path / "a.nii", np.full((4, 4, 4), 7, np.int16)))[0][1]["contrast_limits"]
    assert low == 7 < high


def test_several_files_give_a_layer_each(tmp_path: Path, values: NDArray[np.int16]) -> None:
    paths = [_write(tmp_path / f"{n}.nii.gz", values) for n in "ab"]
    reader = get_reader(paths)
    assert reader is not None
    assert [kwargs["name"] for _, kwargs, _ in reader(paths)] == ["a", "b"]


@pytest.mark.parametrize("path", ["a.tif", "a.gz", ["a.nii", "b.tif"], []])
def test_other_files_are_left_to_other_readers(path: str | list[str]) -> None:
    assert get_reader(path) is None


def test_a_truncated_file_is_an_error_that_names_it(tmp_path: Path, values: NDArray[np.int16]) -> None:
    path = Path(_write(tmp_path / "cut.nii.gz", values))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(VolumeError, match=r"cut\.nii\.gz"):
        read(str(path))


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="no real data: set CRLN_DATA")
def test_image_and_label_of_a_real_case_overlie() -> None:
    folder = DATA / "hippocampus"
    name = sorted(p.name for p in (folder / "labelsTr").glob("[!.]*.nii.gz"))[0]
    image, labels = read([str(folder / "imagesTr" / name), str(folder / "labelsTr" / name)])
    assert (image[2], labels[2]) == ("image", "labels")
    assert image[0].shape == labels[0].shape
    np.testing.assert_allclose(image[1]["affine"], labels[1]["affine"], atol=1e-4)
    assert set(np.unique(labels[0])) == {0, 1, 2}
