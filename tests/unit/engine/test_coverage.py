"""Which slices count as annotated."""

from __future__ import annotations

import numpy as np
import pytest

from napari_crln.engine.coverage import annotated_slices
from napari_crln.types import IGNORE

SHAPE = (6, 8, 10)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_planes_are_annotated_across_their_own_axis_and_not_across_others(axis: int) -> None:
    target = np.full(SHAPE, IGNORE, np.int16)
    np.moveaxis(target, axis, 0)[[1, 4]] = 0  # background is a label too
    assert np.flatnonzero(annotated_slices(target, SHAPE)[axis]).tolist() == [1, 4]
    across = annotated_slices(target, SHAPE, (0, 1, 2))
    assert [across[other].any() for other in (0, 1, 2)] == [other == axis for other in (0, 1, 2)]
    assert list(annotated_slices(target, SHAPE)) == [axis]


def test_a_scribble_makes_its_slice_annotated() -> None:
    target = np.full(SHAPE, IGNORE, np.int16)
    target[2, 3:6, 2:8] = 1
    assert list(annotated_slices(target, SHAPE)) == [0]
    assert np.flatnonzero(annotated_slices(target, SHAPE)[0]).tolist() == [2]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_all_or_nothing(axis: int) -> None:
    dense = np.zeros(SHAPE, np.int16)
    assert annotated_slices(dense, SHAPE, (axis,))[axis].all()
    assert list(annotated_slices(dense, SHAPE)) == list(annotated_slices(None, SHAPE)) == [0]
    for nothing in (None, np.full(SHAPE, IGNORE, np.int16)):
        found = annotated_slices(nothing, SHAPE, (axis,))[axis]
        assert found.shape == (SHAPE[axis],)
        assert not found.any()


def test_half_of_a_slice_across_another_axis_counts() -> None:
    target = np.full(SHAPE, IGNORE, np.int16)
    target[:4] = 0  # two thirds of every slice across H and W
    across = annotated_slices(target, SHAPE, (0, 1, 2))
    assert across[0].tolist() == [True] * 4 + [False] * 2
    assert across[1].all()
    assert across[2].all()
    target[2:4] = IGNORE
    assert not annotated_slices(target, SHAPE, (1,))[1].any()
