"""What a stored map means: 8 bits and a scale, and the names of generations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_crln import previews
from napari_crln.previews import Quantisation, exact, spanning, symmetric, unit

_VALUE = st.floats(-1e4, 1e4, allow_nan=False)


@given(a=_VALUE, b=_VALUE, at=st.floats(0, 1))
def test_values_come_back_within_half_a_scale(a: float, b: float, at: float) -> None:
    low, high = min(a, b), max(a, b)
    value = np.float32(low + at * (high - low))
    for scale in (symmetric(low, high), spanning(low, high)):
        back = scale.values(scale.quantise(np.array([value])))[0]
        assert abs(back - value) <= 0.5 * scale.scale + 1e-5 * max(1.0, abs(low), abs(high))


@given(low=_VALUE, high=_VALUE)
def test_a_symmetric_scale_has_zero_at_128_and_opposite_values_opposite(low: float, high: float) -> None:
    scale = symmetric(low, high)
    assert scale.quantise(np.zeros(3))[0] == 128
    both = scale.quantise(np.array([low, -low])).astype(int)
    assert abs(both.sum() - 256) <= 1
    assert both.min() >= 1


@given(low=_VALUE, high=_VALUE)
def test_half_of_the_levels_are_used(low: float, high: float) -> None:
    """Steps of √2 must not cost much of the 8 bits."""
    low, high = min(low, high), max(low, high)
    if high - low < 1e-3:
        return
    levels = spanning(low, high).quantise(np.array([low, high])).astype(int)
    assert levels[1] - levels[0] >= 0.55 * 255
    levels = symmetric(low, high).quantise(np.array([low, high])).astype(int)
    assert np.abs(levels - 128).max() >= 89


def test_scales_do_not_change_with_every_small_change_of_the_range() -> None:
    assert len({symmetric(-3 - 0.01 * k, 2) for k in range(20)}) == 1
    assert symmetric(-1, 1) != symmetric(-2, 2)


def test_labels_are_stored_as_they_are_and_shares_over_the_whole_range() -> None:
    labels = np.array([0, 1, 7, 254], np.uint8)
    assert np.array_equal(exact().quantise(labels), labels)
    assert unit().quantise(np.array([0.0, 0.6, 1.0])).tolist() == [0, 153, 255]


def test_what_lies_beyond_is_clipped_and_nan_is_0() -> None:
    scale = Quantisation(scale=0.1, offset=-5)
    assert scale.quantise(np.array([-99.0, 99.0, np.nan, np.inf])).tolist() == [0, 255, 0, 255]
    assert scale.limits == pytest.approx((-5, 20.5))


def test_names_sort_like_generations() -> None:
    names = [previews.group_name(g) for g in (2, 10, 100)]
    assert names == sorted(names)
    assert [previews.parse_group_name(n) for n in names] == [2, 10, 100]
    for other in ("g12", ".tmp-g00000001-ab", "g00000001x", "zarr.json"):
        assert previews.parse_group_name(other) is None
