"""Accepting predictions: what was annotated is never lost, and only what was asked for changes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_crln.errors import CrlnError, GridMismatch, InvalidLabel, ProjectError, UsageError
from napari_crln.types import Role
from napari_crln.volume import accept, store
from napari_crln.volume.accept import Plane, accept_prediction, kept_revisions, restore_annotation
from napari_crln.volume.annotation import Annotated, Box, read_record
from napari_crln.volume.geometry import Grid
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume

SHAPE = (6, 7, 8)


@pytest.fixture
def prediction() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 3, SHAPE, np.uint8)


def _add(
    project: Project, image: NDArray[np.uint8], prediction: NDArray[np.uint8], role: Role = "unlabelled",
    annotation: NDArray[np.uint8] | None = None, coverage: accept.Coverage = "dense",
) -> Volume:  # fmt: skip
    volume = project.add("v", image, Grid.from_spacing(SHAPE), role, annotation, coverage=coverage)
    volume.write_prediction(prediction)
    return volume


def test_a_whole_prediction_becomes_a_dense_annotation(
    project: Project, image: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> None:
    volume = _add(project, image, prediction)
    assert accept_prediction(project, "v") == (1, "dense", None)
    np.testing.assert_array_equal(volume.read_targets(), prediction)
    assert project.set_role("v", "labelled").coverage == "dense"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_becomes_a_sparse_annotation_of_that_slice_only(
    axis: int, project: Project, image: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> None:
    volume = _add(project, image, prediction)
    assert accept_prediction(project, "v", Plane(axis, 4)).coverage == "sparse"
    expected = np.full(SHAPE, -1)
    np.moveaxis(expected, axis, 0)[4] = np.moveaxis(prediction, axis, 0)[4]
    np.testing.assert_array_equal(volume.read_targets(), expected)


def test_a_slice_leaves_the_rest_of_a_dense_annotation(
    project: Project, image: NDArray[np.uint8], prediction: NDArray[np.uint8], annotation: NDArray[np.uint8]
) -> None:
    volume = _add(project, image, prediction, "labelled", annotation)
    assert accept_prediction(project, "v", Plane(0, 2)).coverage == "dense"
    expected = annotation.copy()
    expected[2] = prediction[2] + 1
    np.testing.assert_array_equal(volume.read_annotation(), expected)


def test_every_earlier_annotation_is_kept_and_comes_back(
    project: Project, image: NDArray[np.uint8], prediction: NDArray[np.uint8], annotation: NDArray[np.uint8]
) -> None:
    sparse = np.where(np.arange(8) < 5, annotation, 0).astype(np.uint8)
    volume = _add(project, image, prediction, "labelled", sparse, "sparse")
    kept = accept_prediction(project, "v", Plane(0, 2)).kept
    assert kept is not None
    assert kept.is_dir()
    accept_prediction(project, "v")
    assert kept_revisions(volume) == [1, 2]
    assert restore_annotation(volume, 1) == (4, "sparse", volume.path / "history" / "annotation-3")
    np.testing.assert_array_equal(volume.read_annotation(), sparse)
    assert volume.coverage == "sparse"
    restore_annotation(volume, 3)
    np.testing.assert_array_equal(volume.read_targets(), prediction)


def test_a_corrected_prediction_is_taken_in_its_place(
    project: Project, image: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> None:
    volume = _add(project, image, prediction)
    corrected = np.zeros(SHAPE, np.int32)
    corrected[3] = 2
    accept_prediction(project, "v", labels=corrected)
    np.testing.assert_array_equal(volume.read_targets(), corrected)


@pytest.mark.parametrize("role", ["validation", "test"])
def test_predictions_never_become_the_truth_of_an_evaluation(
    role: Role, project: Project, image: NDArray[np.uint8], prediction: NDArray[np.uint8],
    annotation: NDArray[np.uint8],
) -> None:  # fmt: skip
    volume = _add(project, image, prediction, role, annotation)
    with pytest.raises(ProjectError, match=role):
        accept_prediction(project, "v")
    assert volume.revision == 1


@pytest.mark.parametrize(
    ("labels", "plane", "error"),
    [
        (np.zeros((6, 7, 9), np.uint8), None, GridMismatch),
        (np.full(SHAPE, 3, np.uint8), None, InvalidLabel),
        (np.full(SHAPE, 255, np.uint8), None, InvalidLabel),  # 255 + 1 is 0 in uint8
        (np.full(SHAPE, -1, np.int16), None, InvalidLabel),
        (np.zeros(SHAPE, np.float32), None, InvalidLabel),
        (None, Plane(0, 6), UsageError),
        (None, Plane(1, -1), UsageError),
        (None, Plane(3, 0), UsageError),
    ],
)
def test_what_cannot_be_accepted_changes_nothing(
    labels: NDArray[np.generic] | None, plane: Plane | None, error: type[CrlnError], project: Project,
    image: NDArray[np.uint8], prediction: NDArray[np.uint8], annotation: NDArray[np.uint8],
) -> None:  # fmt: skip
    volume = _add(project, image, prediction, "labelled", annotation)
    with pytest.raises(error):
        accept_prediction(project, "v", plane, labels=labels)  # type: ignore[arg-type]
    assert (volume.revision, kept_revisions(volume)) == (1, [])


def test_without_a_prediction_there_is_nothing_to_accept(project: Project, image: NDArray[np.uint8]) -> None:
    project.add("v", image, Grid.from_spacing(SHAPE), "unlabelled")
    with pytest.raises(ProjectError, match="prediction"):
        accept_prediction(project, "v")


def test_an_annotation_saved_meanwhile_is_not_overwritten(
    project: Project, image: NDArray[np.uint8], prediction: NDArray[np.uint8], annotation: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    volume = _add(project, image, prediction, "labelled", annotation)
    painted = annotation.copy()
    painted[0] = 3
    keep = accept.keep_annotation

    def _painted_meanwhile(of: Volume) -> object:
        kept = keep(of)
        of.write_annotation(painted, "dense")
        return kept

    monkeypatch.setattr(accept, "keep_annotation", _painted_meanwhile)
    with pytest.raises(ProjectError, match="meanwhile"):
        accept_prediction(project, "v")
    np.testing.assert_array_equal(volume.read_annotation(), painted)


def test_a_copy_is_of_one_state_whoever_saves_while_it_is_made(
    project: Project, image: NDArray[np.uint8], prediction: NDArray[np.uint8], annotation: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    volume = _add(project, image, prediction, "labelled", annotation)
    erased = threading.Thread(
        target=lambda: volume.write_annotation_region((0, 0, 0), np.zeros((1, 1, 1), np.uint8))
    )
    read = Volume.read_annotated

    def _erased_after(self: Volume, box: Box | None = None) -> Annotated:
        found = read(self, box)
        erased.start()
        erased.join(0.5)  # without a lock it is done by then: sparse, of revision 2
        return found

    monkeypatch.setattr(Volume, "read_annotated", _erased_after)
    kept = accept.keep_annotation(volume)
    monkeypatch.undo()
    erased.join(30)
    assert volume.revision == 2
    assert kept == volume.path / "history" / "annotation-1"
    assert (read_record(kept).coverage, read_record(kept).revision) == ("dense", 1)
    np.testing.assert_array_equal(store.read(kept / "0"), annotation)
