from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_crln.engine.annotated import MOST, AnnotatedVoxels
from napari_crln.types import IGNORE
from napari_crln.volume.annotation import Box

PATCH = (8, 10, 12)
SHAPE = (40, 33, 30)


def targets(*boxes: tuple[slice, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    target = np.full(SHAPE, IGNORE, np.int16)
    for box in boxes:
        target[box] = 1
    return target


def picks(voxels: AnnotatedVoxels, count: int = 4000) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array([voxels.pick(u) for u in np.random.default_rng(0).random(count)])


def test_only_annotated_voxels_are_picked_and_every_one_can_be() -> None:
    target = targets(np.s_[3:6, 2:5, 7:20], np.s_[39:, 32:, 29:])
    seen = picks(AnnotatedVoxels.of(target, PATCH))
    assert {tuple(v) for v in seen.tolist()} == {tuple(v) for v in np.argwhere(target != IGNORE).tolist()}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_in_any_orientation_is_covered_evenly(axis: int) -> None:
    target = targets(tuple(slice(17, 18) if a == axis else slice(None) for a in range(3)))
    voxels = AnnotatedVoxels.of(target, PATCH)
    seen = picks(voxels)
    assert (seen[:, axis] == 17).all()
    cells, counts = np.unique(seen // PATCH, axis=0, return_counts=True)
    expected = [-(-n // p) for a, (n, p) in enumerate(zip(SHAPE, PATCH, strict=True)) if a != axis]
    assert len(cells) == np.prod(expected)
    assert counts.min() > 0.6 * counts.mean()


def test_a_small_correction_is_not_drowned_by_complete_slices() -> None:
    target = targets(np.s_[0:3], np.s_[35, 30, 5:8])
    share = (picks(AnnotatedVoxels.of(target, PATCH))[:, 0] == 35).mean()
    assert share > 1 / 14, "3 voxels of 2973, but one of 13 places"


def test_a_full_cell_lists_a_bounded_number_of_its_voxels_evenly() -> None:
    target = np.zeros((64, 64, 64), np.int16)
    target[0, 0, 0] = IGNORE
    voxels = AnnotatedVoxels.of(target, (64, 64, 64))
    (listed,) = voxels.listed.values()
    assert MOST / 2 < len(listed) <= MOST
    assert len(voxels) == 64**3 - 1
    assert not voxels.is_complete
    for axis in range(3):
        counts = np.bincount(listed[:, axis], minlength=64)
        assert counts.min() > 0.5 * counts.mean()
        assert counts.max() < 1.5 * counts.mean()


@given(st.data())
def test_after_any_changes_it_is_as_if_made_anew(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    target = targets()
    voxels = AnnotatedVoxels.of(target, PATCH)
    for _ in range(3):
        spans = [sorted(rng.choice(n + 1, 2, replace=False).tolist()) for n in SHAPE]
        box: Box = tuple((a, b) for a, b in spans)  # type: ignore[assignment]
        target[tuple(slice(*span) for span in box)] = rng.integers(-1, 3)
        box = voxels.aligned(box)
        voxels = voxels.with_part(target[tuple(slice(*span) for span in box)], box)
    anew = AnnotatedVoxels.of(target, PATCH)
    assert list(voxels.listed) == list(anew.listed)
    assert voxels.counts == anew.counts
    assert all(
        np.array_equal(a, b) for a, b in zip(voxels.listed.values(), anew.listed.values(), strict=True)
    )
    assert len(voxels) == (target != IGNORE).sum()
