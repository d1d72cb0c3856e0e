from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers.utils import _get_scan_interval

from napari_crln.engine.windows import Grid, importance
from napari_crln.errors import ConfigError
from napari_crln.types import ShapeDHW

SIZES = st.tuples(*[st.integers(1, 40)] * 3)
PATCHES = st.tuples(*[st.integers(1, 24)] * 3)


def test_literature_grid_on_the_left_atrium() -> None:
    """UA-MT's test script: ceil((size - patch) / stride) + 1 windows, the last one flush."""
    grid = Grid.over((88, 168, 131), (80, 112, 112), (4, 18, 18), overlap=0.5)
    assert grid.rows == [0, 4, 8]
    assert sorted({h for h, _ in grid.columns}) == [0, 18, 36, 54, 56]
    assert sorted({w for _, w in grid.columns}) == [0, 18, 19]
    assert len(grid) == 3 * 5 * 3


@settings(max_examples=50, deadline=None)
@given(shape=SIZES, patch=PATCHES, overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]))
def test_windows_are_monais(shape: ShapeDHW, patch: ShapeDHW, overlap: float) -> None:
    grid = Grid.over(shape, patch, None, overlap)
    interval = _get_scan_interval(grid.padded, patch, 3, (overlap,) * 3)
    theirs = [tuple(s.start for s in slices) for slices in dense_patch_slices(grid.padded, patch, interval)]
    assert [(d, *column) for d in grid.rows for column in grid.columns] == theirs


@settings(max_examples=50, deadline=None)
@given(shape=SIZES, patch=PATCHES, fraction=st.tuples(*[st.floats(0, 1)] * 3))
def test_every_voxel_is_covered_and_no_window_leaves_the_grid(
    shape: ShapeDHW, patch: ShapeDHW, fraction: tuple[float, float, float]
) -> None:
    d, h, w = (max(1, round(f * p)) for f, p in zip(fraction, patch, strict=True))
    grid = Grid.over(shape, patch, (d, h, w), overlap=0.5)
    covered = np.zeros(grid.padded, int)
    for z in grid.rows:
        for y, x in grid.columns:
            covered[z : z + patch[0], y : y + patch[1], x : x + patch[2]] += 1
            assert all(s + p <= n for s, p, n in zip((z, y, x), patch, grid.padded, strict=True))
    assert covered.min() >= 1


@pytest.mark.parametrize("patch", [(80, 112, 112), (7, 16, 1), (5, 5, 5)])
def test_importance_is_monais(patch: ShapeDHW) -> None:
    np.testing.assert_allclose(
        importance(patch), compute_importance_map(patch, mode="gaussian").numpy(), rtol=1e-5
    )
    assert importance(patch).dtype == np.float32


@pytest.mark.parametrize("stride", [(0, 4, 4), (4, 9, 4)])
def test_a_stride_that_leaves_gaps_is_refused(stride: ShapeDHW) -> None:
    with pytest.raises(ConfigError, match=r"predicting\.stride.*between 1 and the window"):
        Grid.over((32, 32, 32), (8, 8, 8), stride, overlap=0.5)
