from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from napari_crln.errors import CrlnError, GridMismatch, InvalidLabel, ProjectError, UnreadableFile
from napari_crln.volume.imports import case_name, import_nifti
from napari_crln.volume.project import Project

SaveNifti = Callable[..., Path]
IMAGE = np.random.default_rng(0).integers(0, 99, (5, 6, 7), dtype=np.int16)
LABEL = np.zeros((5, 6, 7), np.uint8)
LABEL[2:4, 2:4, 2:4] = 4
LABEL[0, 0, 0] = 7


def snapshot(project: Project) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in project.path.rglob("*") if p.is_file()}


def test_image_alone(project: Project, save: SaveNifti) -> None:
    volume = import_nifti(project, save("case.nii.gz", IMAGE))
    assert (volume.name, volume.role, volume.coverage) == ("case", "unlabelled", None)
    np.testing.assert_array_equal(volume.read_image(), IMAGE.T)
    assert volume.source.name == "case.nii.gz"
    assert not volume.has_annotation


def test_label_in_another_orientation_than_its_image(project: Project, save: SaveNifti) -> None:
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 4
    image, label = save("i.nii", IMAGE), save("l.nii", LABEL[::-1].copy(), flipped)
    volume = import_nifti(project, image, label, "labelled")
    np.testing.assert_array_equal(volume.read_annotation(), project.classes.encode(LABEL.T))


def test_sparse_with_an_id_for_not_annotated(project: Project, save: SaveNifti) -> None:
    label = LABEL.copy()
    label[4] = 99
    volume = import_nifti(
        project, save("i.nii", IMAGE), save("l.nii", label), "labelled", "sparse", ignore=99
    )
    assert volume.coverage == "sparse"
    targets = volume.read_targets().T
    assert (targets[4] == -1).all()
    assert targets[0, 0, 0] == 2
    assert targets[1, 0, 0] == 0


def test_sparse_in_stored_values(project: Project, save: SaveNifti) -> None:
    label = np.zeros_like(LABEL)
    label[0, 0, :3] = 1, 2, 3
    volume = import_nifti(project, save("i.nii", IMAGE), save("l.nii", label), "labelled", "sparse")
    np.testing.assert_array_equal(volume.read_annotation(), label.T)
    label[0, 0, 0] = 4
    with pytest.raises(InvalidLabel, match="values 0 to 4; a sparse label holds 0 = not annotated"):
        import_nifti(project, save("j.nii", IMAGE), save("l.nii", label), "labelled", "sparse")


def _golden(values: str, project: Project, tmp_path: Path) -> str:
    return values.replace("{p}", str(project.path)).replace("{t}", str(tmp_path))


MOVED = np.diag([1.0, 1, 1, 1])
MOVED[0, 3] = 2
CASES = [
    (
        {"label": LABEL[:4]},
        GridMismatch,
        "{t}/l.nii: label and image differ: shape (7, 6, 4) against (7, 6, 5) voxels (D, H, W); a label has its "
        "image's shape, and corners within 0.05 voxel of the image's. "
        "Resample the label to the image, or pair the right files",
    ),
    (
        {"label": LABEL, "affine": MOVED},
        GridMismatch,
        "{t}/l.nii: label and image differ: affine [1 0 0 2; 0 1 0 0; 0 0 1 0] against [1 0 0 0; 0 1 0 0; 0 0 1 0] "
        "(corners up to 2 mm apart); a label has its image's shape, and corners within 0.05 voxel of the image's. "
        "Resample the label to the image, or pair the right files",
    ),
    (
        {"label": LABEL + np.uint8(1)},
        InvalidLabel,
        "{t}/l.nii: unknown label id 1, 5, 8; the project's classes are 0 = background, 4 = head, 7 = tail. "
        "Correct the label, or create the project with these classes",
    ),
    (
        {"label": LABEL * 0},
        InvalidLabel,
        "{t}/l.nii: the label is empty: it holds only background; a labelled volume shows at least one voxel of a "
        "class. Give its label, or import the volume as unlabelled",
    ),
    (
        {"label": LABEL, "name": "first"},
        ProjectError,
        "{p}: volume 'first' exists; names are unique, whatever their case. Choose another name",
    ),
]


@pytest.mark.parametrize(("change", "kind", "line"), CASES)
def test_refusals_name_the_file_and_change_nothing(
    project: Project,
    save: SaveNifti,
    tmp_path: Path,
    change: dict[str, object],
    kind: type[CrlnError],
    line: str,
) -> None:
    import_nifti(project, save("first.nii", IMAGE), save("l.nii", LABEL), "labelled")
    before = snapshot(project)
    label = save("l.nii", change["label"], change.get("affine"))
    with pytest.raises(CrlnError) as caught:
        import_nifti(project, save("i.nii", IMAGE), label, "labelled", name=change.get("name"))  # type: ignore[arg-type]
    assert type(caught.value) is kind
    assert str(caught.value) == _golden(line, project, tmp_path)
    assert snapshot(project) == before


def test_truncated_file_changes_nothing(project: Project, save: SaveNifti) -> None:
    path = save("i.nii.gz", IMAGE)
    path.write_bytes(path.read_bytes()[:-20])
    before = snapshot(project)
    with pytest.raises(UnreadableFile, match="truncated"):
        import_nifti(project, path)
    assert snapshot(project) == before


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.NII.GZ", "a"])
def test_case_names(name: str) -> None:
    assert case_name(Path("x") / name) == "a"
