"""Which slices count as annotated."""

from __future__ import annotations

import numpy as np
import pytest

from napari_crln.engine.coverage import annotated_slices, annotation_axis
from napari_crln.types import IGNORE

SHAPE = (6, 8, 10)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_are_annotated_across_their_own_axis_and_not_across_others(axis: int) -> None:
    target = np.full(SHAPE, IGNORE, np.int16)
    np.moveaxis(target, axis, 0)[[1, 4]] = 0  # background is a label too
    assert annotation_axis(target) == axis
    assert np.flatnonzero(annotated_slices(target, axis, SHAPE[axis])).tolist() == [1, 4]
    for other in {0, 1, 2} - {axis}:
        assert not annotated_slices(target, other, SHAPE[other]).any()


def test_a_scribble_makes_its_slice_annotated() -> None:
    target = np.full(SHAPE, IGNORE, np.int16)
    target[2, 3:6, 2:8] = 1
    assert annotation_axis(target) == 0
    assert np.flatnonzero(annotated_slices(target, 0, 6)).tolist() == [2]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_all_or_nothing(axis: int) -> None:
    dense = np.zeros(SHAPE, np.int16)
    assert annotated_slices(dense, axis, SHAPE[axis]).all()
    assert annotation_axis(dense) == annotation_axis(None) == 0
    assert not annotated_slices(None, axis, SHAPE[axis]).any()
    assert not annotated_slices(np.full(SHAPE, IGNORE, np.int16), axis, SHAPE[axis]).any()
