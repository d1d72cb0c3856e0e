"""NIfTI → project → NIfTI is the identity: voxels, affine, qform and sform with their codes, bit for bit."""

from __future__ import annotations

import tempfile
from itertools import permutations, product
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes

from napari_crln.volume.imports import import_nifti
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.nifti import read_image, write_image, write_labels
from napari_crln.volume.project import Project

ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))
DTYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
GEOMETRY = ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
            "srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units")  # fmt: skip
TABLE = ClassTable.from_ids({"background": 0, "a": 3, "b": 300})


class File(NamedTuple):
    """A drawn NIfTI file."""

    array: np.ndarray[Any, Any]
    affine: np.ndarray[Any, Any]
    header: nib.Nifti1Header
    name: str


def rotation(angles: tuple[float, float, float]) -> np.ndarray[Any, Any]:
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        step = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        step[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
        turn = turn @ step
    return turn


@st.composite
def files(draw: st.DrawFn) -> File:
    """Any of 48 orientations (some oblique), spacing, dtype, byte order, version, scaling and codes."""
    order, signs = draw(st.sampled_from(ORIENTATIONS))
    spacing = draw(st.tuples(*[st.one_of(st.floats(0.01, 20), st.sampled_from([1e-3, 1 / 3, 1e3]))] * 3))
    angles = draw(st.tuples(*[st.sampled_from([0.0, 0.1, -0.2])] * 3))
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles) @ np.eye(3)[:, list(order)] @ np.diag(np.multiply(signs, spacing))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3).filter(lambda s: np.prod(s) > 1))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    kind = draw(st.sampled_from([nib.Nifti1Header, nib.Nifti2Header]))
    header = kind(endianness=draw(st.sampled_from("<>")))
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_sform(affine, draw(st.integers(0, 4)))
    header.set_qform(affine, draw(st.integers(0, 4)))
    header["xyzt_units"] = draw(st.sampled_from([0, 1, 2, 3, 10]))
    header["scl_slope"], header["scl_inter"] = draw(st.sampled_from([(1, 0), (0.037, -0.77), (-2, 3)]))
    array = np.frombuffer(rng.bytes(int(np.prod(shape)) * 8), "u8").reshape(shape)
    values = (array % 200).astype(dtype) if dtype.kind != "f" else (array / 2**64).astype(dtype)
    values.flat[0] = values.flat[1] + dtype.type(1)  # never constant
    return File(values, affine, header, draw(st.sampled_from(["c.nii", "c.nii.gz"])))


def save(file: File, folder: Path) -> Path:
    """Write the drawn header as it is: nibabel would normalise it."""
    header = file.header.copy()
    header["vox_offset"] = int(header["sizeof_hdr"]) + 4
    header["magic"] = b"n+2" if header["magic"].item().startswith(b"n+2") else b"n+1"
    content = header.binaryblock + bytes(4) + file.array.astype(header.get_data_dtype()).tobytes(order="F")
    path = folder / file.name
    opened = nib.openers.Opener(str(path), "wb")
    with opened:
        opened.write(content)
    return path


def same_geometry(path: Path, header: nib.Nifti1Header) -> None:
    written = nib.load(path).header
    for field in GEOMETRY:
        assert written[field].tobytes() == header[field].tobytes(), field


_quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@given(file=files())
@settings(_quick, max_examples=30)
def test_image_through_a_project(file: File) -> None:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        path = save(file, here)
        volume = import_nifti(Project.create(here / "p.crln", TABLE), path)
        volume = Project.open(here / "p.crln").volumes["c"]
        image = volume.read_image()
        assert image.dtype == file.array.dtype
        write_image(here / "out.nii.gz", image, volume.source, scaling=volume.scaling)
        same_geometry(here / "out.nii.gz", file.header)
        back, first = nib.load(here / "out.nii.gz"), nib.load(path)
        np.testing.assert_array_equal(back.affine, first.affine)
        np.testing.assert_array_equal(np.asarray(back.dataobj.get_unscaled()), file.array)
        np.testing.assert_array_equal(back.get_fdata(), first.get_fdata())


@given(file=files(), seed=st.integers(0, 99))
@_quick
def test_stored_is_ras_and_labels_come_back_in_place(file: File, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        loaded = read_image(save(file, here))
        assert aff2axcodes(loaded.grid.affine) == ("R", "A", "S")
        indices = np.random.default_rng(seed).integers(0, 3, loaded.grid.shape).astype(np.uint8)
        write_labels(here / "out.nii.gz", indices, loaded.source, TABLE)
        same_geometry(here / "out.nii.gz", file.header)
        written = nib.load(here / "out.nii.gz")
        assert written.get_data_dtype().newbyteorder("=") == np.uint16
        canonical = nib.as_closest_canonical(written)
        np.testing.assert_array_equal(np.asarray(canonical.dataobj).T, np.array([0, 3, 300])[indices])


@given(file=files(), seed=st.integers(0, 99))
@settings(_quick, max_examples=20)
def test_image_and_label_through_two_projects(file: File, seed: int) -> None:
    """What is exported and imported again is stored as it was: nothing drifts with each round."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        path = save(file, here)
        loaded = read_image(path)
        indices = np.random.default_rng(seed).integers(0, 3, loaded.grid.shape).astype(np.uint8)
        indices.flat[0] = 1  # never background alone
        write_labels(here / "label.nii", indices, loaded.source, TABLE)
        once = import_nifti(Project.create(here / "once.crln", TABLE), path, here / "label.nii", "labelled")
        image, targets = once.read_image(), once.read_targets()
        np.testing.assert_array_equal(targets, indices)
        write_image(here / "again.nii", image, once.source, scaling=once.scaling)
        write_labels(here / "again-label.nii", targets.astype(np.uint8), once.source, TABLE)
        twice = import_nifti(
            Project.create(here / "twice.crln", TABLE),
            here / "again.nii",
            here / "again-label.nii",
            "labelled",
        )
        assert twice.read_image().tobytes() == image.tobytes()
        assert twice.read_targets().tobytes() == targets.tobytes()
        assert twice.grid.affine.tobytes() == once.grid.affine.tobytes()
        assert twice.scaling == once.scaling
        assert twice.normalisation == once.normalisation


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_each_of_the_48_orientations(order: tuple[int, ...], signs: tuple[int, ...], tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] @ np.diag(np.multiply(signs, (1.0, 2.0, 3.0)))
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "a.nii")
    loaded = read_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(
        loaded.voxels, np.asarray(nib.as_closest_canonical(nib.load(tmp_path / "a.nii")).dataobj).T
    )
    np.testing.assert_array_equal(loaded.source.to_file(loaded.voxels), array)
