"""Proofreading: the role follows the annotation, and every state can be had back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_crln.errors import InvalidLabel, ProjectError
from napari_crln.types import Role
from napari_crln.volume import accept as accepting
from napari_crln.volume.accept import Plane, kept_annotations
from napari_crln.volume.geometry import Grid
from napari_crln.volume.project import Project
from napari_crln.volume.proofread import NONE_YET, accept, restorable, restore
from napari_crln.volume.stored import Volume

SHAPE = (6, 7, 8)


@pytest.fixture
def prediction() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 3, SHAPE, np.uint8)


def _add(
    project: Project, image: NDArray[np.uint8], prediction: NDArray[np.uint8], role: Role,
    annotation: NDArray[np.uint8] | None = None,
) -> Volume:  # fmt: skip
    volume = project.add("v", image, Grid.from_spacing(SHAPE), role, annotation)
    volume.write_prediction(prediction)
    return volume


def test_every_state_of_an_annotation_can_be_had_back(
    project: Project, image: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> None:
    before = np.ones(SHAPE, np.uint8)
    before[2] = 2
    volume = _add(project, image, prediction, "labelled", before)
    assert restorable(volume) == (NONE_YET,)
    accept(project, "v", Plane(1, 3))
    accept(project, "v")
    assert restorable(volume) == (2, 1, NONE_YET)
    kept = kept_annotations(volume)
    assert [(each.revision, each.coverage) for each in kept] == [(1, "dense"), (2, "dense")]
    assert 0 <= time.time() - kept[0].until < 600
    assert restore(project, "v", 1).role == "labelled"
    np.testing.assert_array_equal(volume.read_annotation(), before)
    assert volume.coverage == "dense"
    assert restore(project, "v", 3).revision == 5
    np.testing.assert_array_equal(volume.read_targets(), prediction)


def test_roles_follow_but_for_validation_and_test(
    project: Project, image: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> None:
    volume = _add(project, image, prediction, "unlabelled")
    assert restorable(volume) == ()
    assert (accept(project, "v").was, project.volume("v").role) == ("unlabelled", "labelled")
    assert restore(project, "v", NONE_YET).role == "unlabelled"
    assert restore(project, "v", 1).role == "labelled"
    project.set_role("v", "validation")
    assert restorable(project.volume("v")) == (2, 1)
    with pytest.raises(ProjectError, match="role validation"):
        restore(project, "v", NONE_YET)
    assert restore(project, "v", 1).role == "validation"


def test_a_prediction_of_nothing_is_no_annotation(project: Project, image: NDArray[np.uint8]) -> None:
    volume = _add(project, image, np.zeros(SHAPE, np.uint8), "unlabelled")
    with pytest.raises(InvalidLabel, match="all background"):
        accept(project, "v")
    assert not volume.has_annotation
    assert accept(project, "v", Plane(0, 1)).role == "labelled"  # a slice of background does teach


STROKE = np.full((2, 2, 2), 3, np.uint8)


def _between_copy_and_write(monkeypatch: pytest.MonkeyPatch, act: Callable[[Volume], None]) -> None:
    keep = accepting.keep_annotation

    def _acted(of: Volume) -> Path | None:
        kept = keep(of)
        act(of)
        return kept

    monkeypatch.setattr(accepting, "keep_annotation", _acted)


@pytest.mark.parametrize("revision", [1, NONE_YET])
def test_a_stroke_saved_while_restoring_waits_and_lies_upon_what_is_restored(
    revision: int, project: Project, image: NDArray[np.uint8], prediction: NDArray[np.uint8],
    annotation: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    volume = _add(project, image, prediction, "labelled", annotation)
    accept(project, "v")
    painter = threading.Thread(target=lambda: volume.write_annotation_region((0, 0, 0), STROKE))

    def _paint(_volume: Volume) -> None:
        painter.start()
        painter.join(0.5)  # without a lock it is done by then

    _between_copy_and_write(monkeypatch, _paint)
    assert restore(project, "v", revision).revision >= 3
    painter.join(30)
    expected = annotation.copy() if revision else np.zeros_like(annotation)
    expected[:2, :2, :2] = STROKE
    np.testing.assert_array_equal(volume.read_annotation(), expected)


@pytest.mark.parametrize("revision", [1, NONE_YET])
def test_a_stroke_that_no_history_has_is_not_restored_away(
    revision: int, project: Project, image: NDArray[np.uint8], prediction: NDArray[np.uint8],
    annotation: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """This thread's own save, which no lock keeps back: the restoring is refused."""
    volume = _add(project, image, prediction, "labelled", annotation)
    accept(project, "v")
    _between_copy_and_write(monkeypatch, lambda of: of.write_annotation_region((0, 0, 0), STROKE) and None)
    with pytest.raises(ProjectError, match="meanwhile"):
        restore(project, "v", revision)
    assert (volume.read_annotation()[:2, :2, :2] == STROKE).all()
