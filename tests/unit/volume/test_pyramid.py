from __future__ import annotations

import numpy as np
import pytest

from napari_crln.volume import pyramid
from napari_crln.volume.pyramid import plan


def test_small_volumes_have_one_level() -> None:
    assert [level.shape for level in plan((35, 51, 128), (1, 1, 1))] == [(35, 51, 128)]


def test_finest_axes_are_halved_first() -> None:
    levels = plan((40, 512, 512), (4.0, 1.0, 1.0))
    assert [level.shape for level in levels] == [(40, 512, 512), (40, 256, 256), (40, 128, 128)]
    assert levels[-1].spacing == (4.0, 4.0, 4.0)


def test_odd_sizes_round_up_and_all_end_small() -> None:
    shapes = [level.shape for level in plan((1, 301, 299), (0.01, 1.0, 1.0))]
    assert shapes == [(1, 301, 299), (1, 151, 150), (1, 76, 75)]


def test_average_is_the_mean_and_the_edge_stands_for_itself() -> None:
    block = np.array([[[0, 2, 9]]], np.uint8)
    assert pyramid.average(block, (1, 1, 2)).tolist() == [[[1, 9]]]
    assert pyramid.average(block, (1, 1, 2)).dtype == np.uint8


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, np.int64, np.float16, np.float64])
def test_average_keeps_a_constant_in_every_dtype(dtype: type) -> None:
    value = 3 if np.issubdtype(dtype, np.floating) else min(np.iinfo(dtype).max, 2**52) // 4
    block = np.full((3, 3, 3), value, dtype)
    np.testing.assert_array_equal(pyramid.average(block, (2, 2, 2)), np.full((2, 2, 2), value, dtype))


def test_average_of_the_largest_integers_does_not_wrap() -> None:
    block = np.full((2, 2, 2), np.iinfo(np.uint64).max, np.uint64)
    assert pyramid.average(block, (2, 2, 2)).item() > 2**63


def test_decimation_invents_no_class() -> None:
    block = np.random.default_rng(0).choice(np.array([0, 200], np.uint8), (5, 5, 5))
    small = pyramid.decimate(block, (2, 2, 2))
    np.testing.assert_array_equal(small, block[::2, ::2, ::2])
