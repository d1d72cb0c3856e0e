from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command_line import Call

from napari_crln.volume.project import Project


@pytest.fixture
def predicted(trained: Path) -> Path:
    """Two volumes with predictions of random classes."""
    project = Project.open(trained)
    random = np.random.default_rng(0)
    for name in ("case_0", "case_5"):
        volume = project.volume(name)
        volume.write_prediction(random.integers(0, 4, volume.grid.shape, np.uint8))
    return trained


def test_predictions_lie_on_the_source_grids_with_their_affines_bit_for_bit(
    call: Call, predicted: Path, decathlon: Path, tmp_path: Path
) -> None:
    answer = call("export", predicted, tmp_path / "out", "--json")
    assert answer.code == 0
    assert [each["name"] for each in answer.json()["volumes"]] == ["case_0", "case_5"]
    for name, folder in (("case_0", "imagesTr"), ("case_5", "imagesTs")):
        written = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        source = nib.load(decathlon / folder / f"{name}.nii.gz")
        assert written.affine.tobytes() == source.affine.tobytes()
        assert written.header["srow_x"].tobytes() == source.header["srow_x"].tobytes()
        stored = Project.open(predicted).volume(name).read_prediction()
        np.testing.assert_array_equal(np.asarray(written.dataobj), stored.T[::-1, ::-1])  # LPS, stored RAS


def test_dense_annotations_come_back_as_they_were_imported(
    call: Call, predicted: Path, decathlon: Path, tmp_path: Path
) -> None:
    answer = call("export", predicted, tmp_path, "--what", "annotation", "--volume", "case_0", "--json")
    assert (answer.code, answer.json()["not_annotated"]) == (0, None)
    written = nib.load(tmp_path / "case_0.nii.gz")
    imported = nib.load(decathlon / "labelsTr" / "case_0.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(imported.dataobj))


def test_voxels_that_nobody_annotated_get_an_id_of_their_own(
    call: Call, predicted: Path, tmp_path: Path
) -> None:
    volume = Project.open(predicted).volume("case_0")
    annotation = np.zeros(volume.grid.shape, np.uint8)
    annotation[2] = 1 + volume.read_prediction()[2]
    volume.write_annotation(annotation, "sparse")
    answer = call("export", predicted, tmp_path, "--what", "annotation", "--volume", "case_0", "--json")
    assert answer.json()["not_annotated"] == 255
    expected = np.where(annotation == 0, 255, annotation.astype(int) - 1)
    written = np.asarray(nib.load(tmp_path / "case_0.nii.gz").dataobj)
    np.testing.assert_array_equal(written, expected.T[::-1, ::-1])
    assert written.dtype == np.uint8


def test_nothing_is_overwritten_unasked_and_nothing_is_written_by_half(
    call: Call, predicted: Path, tmp_path: Path
) -> None:
    (tmp_path / "case_5.nii.gz").write_bytes(b"mine")
    answer = call("export", predicted, tmp_path)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert [path.name for path in tmp_path.glob("*.nii.gz")] == ["case_5.nii.gz"]
    assert (tmp_path / "case_5.nii.gz").read_bytes() == b"mine"
    assert call("export", predicted, tmp_path, "--overwrite").code == 0
    assert (tmp_path / "case_5.nii.gz").read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("options", "says"),
    [(("--volume", "case_6"), "no prediction of 'case_6'"), (("--volume", "none"), "no volume 'none'")],
)
def test_what_is_not_there_is_said_in_one_line(
    options: tuple[str, str], says: str, call: Call, predicted: Path, tmp_path: Path
) -> None:
    answer = call("export", predicted, tmp_path / "out", *options)
    assert (answer.code, answer.err.count("\n")) == (4, 1)
    assert says in answer.err
    assert not (tmp_path / "out").exists()
