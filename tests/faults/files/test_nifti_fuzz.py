"""Malformed NIfTI files, over 5,000 of them: an error of ours, or what the file says by an independent reader.

That reader is nibabel on the same bytes; where it is laxer than we are (a file that ends early, NaN in the
affine), only our refusal counts.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playground import nifti_header, packed

from napari_crln.errors import CrlnError
from napari_crln.volume.nifti import Loaded, read_image, read_label

VOXELS = np.arange(64, dtype=np.uint8).tobytes()
#: Seconds that one file may take; a sound one takes milliseconds.
PATIENCE = 20.0
EDITS, PARTS = 3000, 5
EXAMPLES = 2000
#: Fields that say what is read; their bytes are edited more often than names and descriptions.
TELLING = [*range(4), *range(40, 56), *range(70, 124), *range(252, 328), *range(344, 352)]


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """nibabel logs whatever it mends."""
    logger = logging.getLogger("nibabel.global")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(before)


def _attempt(path: Path, content: bytes) -> Loaded | None:
    """Our reading of these bytes, None for an error of ours; any other exception, or a wait, is a failure."""
    path.write_bytes(packed(content) if path.suffix == ".gz" else content)
    began, refusal, loaded = perf_counter(), None, None
    try:
        loaded = read_image(path)
    except CrlnError as error:
        refusal = str(error)
    assert perf_counter() - began < PATIENCE
    assert refusal is None or (path.name in refusal and "\n" not in refusal)
    return loaded


def _judge(loaded: Loaded, content: bytes) -> None:
    """A reading is right if nibabel's has the same voxels at the same places in the world."""
    affine = loaded.grid.affine
    assert np.isfinite(affine).all()
    assert all(np.isfinite(step) and step > 0 for step in loaded.grid.spacing)
    assert np.isfinite(loaded.scaling).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = _nibabel(content)
    at = np.array(loaded.source.affine)
    np.testing.assert_array_equal(at, theirs.header.get_best_affine())
    raw = np.asanyarray(theirs.dataobj.get_unscaled()).reshape(theirs.shape[:3], order="F")
    np.testing.assert_array_equal(loaded.source.to_file(loaded.voxels), raw)


def _nibabel(content: bytes) -> Any:
    """nibabel's reading, with the one thing that the standard leaves open: an offset of 0."""
    kind = nib.Nifti2Image if int.from_bytes(content[:4], "little") == 540 else nib.Nifti1Image
    header = kind.header_class.from_fileobj(io.BytesIO(content), check=False)
    if float(header["vox_offset"]) == 0:
        header["vox_offset"] = int(header["sizeof_hdr"]) + 4
    content = header.binaryblock + content[len(header.binaryblock) :]
    files = kind.make_file_map({"header": io.BytesIO(content), "image": io.BytesIO(content)})
    return kind.from_file_map(files)


def _edited(rng: np.random.Generator) -> bytes:
    """A sound file, with one to four bytes changed: random ones, or those that break parsers."""
    data = bytearray(nifti_header() + VOXELS)
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.choice(TELLING)) if rng.random() < 0.9 else int(rng.integers(len(data)))
        data[place] = (
            int(rng.choice([0, 1, 0x7F, 0x80, 0xFF])) if rng.random() < 0.5 else int(rng.integers(256))
        )
    return bytes(data)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("seed", range(PARTS))
def test_files_with_edited_bytes(ground: Any, name: str, seed: int) -> None:
    rng = np.random.default_rng([len(name), seed])
    read = 0
    for _ in range(EDITS // PARTS // 2):
        content = _edited(rng)
        loaded = _attempt(ground.inside / name, content)
        if loaded is not None:
            read += 1
            _judge(loaded, content)
    assert 0.1 < read / (EDITS // PARTS // 2) < 0.9, "both outcomes occur, or nothing is tested"


NUMBERS = st.one_of(
    st.sampled_from(
        [0.0, -0.0, 1.0, -1.0, 1e-38, 3.4e38, -3.4e38, 1e-45, float("nan"), float("inf"), float("-inf")]
    ),
    st.floats(width=32),
)
SHORTS = st.one_of(st.sampled_from([0, 1, 3, 4, 7, 8, -1, 32767, -32768]), st.integers(-32768, 32767))
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "dim": st.lists(SHORTS, min_size=8, max_size=8),
    "pixdim": st.lists(NUMBERS, min_size=8, max_size=8),
    "datatype": st.one_of(st.sampled_from([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304]), SHORTS),
    "bitpix": SHORTS,
    "vox_offset": st.one_of(NUMBERS, st.sampled_from([0.0, 348.0, 351.0, 352.0, 352.5, 360.0, -352.0, 2.0**31])),
    "scl_slope": NUMBERS,
    "scl_inter": NUMBERS,
    "qform_code": SHORTS,
    "sform_code": SHORTS,
    "quatern_b": NUMBERS,
    "quatern_c": NUMBERS,
    "quatern_d": NUMBERS,
    "qoffset_x": NUMBERS,
    "srow_x": st.lists(NUMBERS, min_size=4, max_size=4),
    "srow_y": st.lists(NUMBERS, min_size=4, max_size=4),
    "srow_z": st.lists(NUMBERS, min_size=4, max_size=4),
    "sizeof_hdr": st.one_of(st.sampled_from([0, 347, 348, 540, -1, 1543569408]), st.integers(-(2**31), 2**31 - 1)),
    "magic": st.sampled_from([b"n+1", b"ni1", b"n+2", b"", b"\0n+1"]),
    "xyzt_units": st.integers(0, 255),
    "intent_code": SHORTS,
}  # fmt: skip


@pytest.mark.parametrize("big", [False, True])
@settings(max_examples=EXAMPLES // 2, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip
@given(
    fields=st.fixed_dictionaries({}, optional=FIELDS).filter(lambda f: 1 <= len(f) <= 6),
    length=st.one_of(st.just(64), st.integers(0, 80)),
)
def test_headers_of_any_content(ground: Any, big: bool, fields: dict[str, Any], length: int) -> None:
    header = nib.Nifti1Header(nifti_header(**fields)[:348], check=False)
    block = header.as_byteswapped(">").binaryblock if big else header.binaryblock
    content = block + bytes(4) + (VOXELS * 2)[:length]
    path = ground.inside / "a.nii"
    loaded = _attempt(path, content)
    if loaded is not None:
        _judge(loaded, content)
    try:
        label = read_label(path)
    except CrlnError:
        return
    assert label.voxels.dtype.kind in "iu"
    assert loaded is not None


@pytest.mark.parametrize("length", [0, 1, 3, 4, 347, 348, 351, 352, 353, 415])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_files_that_end_early(ground: Any, name: str, length: int) -> None:
    assert _attempt(ground.inside / name, (nifti_header() + VOXELS)[:length]) is None


def test_noise(ground: Any) -> None:
    rng = np.random.default_rng(3)
    for length in rng.integers(0, 2000, 200).tolist():
        assert _attempt(ground.inside / "a.nii", rng.bytes(length)) is None
        (ground.inside / "b.nii.gz").write_bytes(b"\x1f\x8b\x08" + rng.bytes(length))
        with pytest.raises(CrlnError):
            read_image(ground.inside / "b.nii.gz")


@pytest.mark.parametrize("row", ["srow_x", "srow_y", "srow_z"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", range(4))
def test_an_affine_that_is_not_finite_is_never_taken(
    ground: Any, row: str, value: float, column: int
) -> None:
    rows = {"srow_x": [1.0, 0, 0, 0], "srow_y": [0, 1.0, 0, 0], "srow_z": [0, 0, 1.0, 0]}
    rows[row][column] = value
    assert _attempt(ground.inside / "a.nii", nifti_header(**rows) + VOXELS) is None
