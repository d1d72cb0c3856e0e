from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_crln.volume.patches import Padding

_sizes = st.tuples(*[st.integers(1, 9)] * 3)


@given(_sizes, _sizes, st.integers(0, 2))
def test_the_volume_lies_unchanged_in_its_padding(
    shape: tuple[int, int, int], patch: tuple[int, int, int], leading: int
) -> None:
    array = np.arange(2**leading * np.prod(shape), dtype=np.int32).reshape((2,) * leading + shape) + 1
    padding = Padding.to_fit(shape, patch)
    padded = padding.pad(array, constant=-5)
    assert padded.dtype == array.dtype
    assert padded.shape[-3:] == tuple(map(max, shape, patch))
    assert (padded != -5).sum() == array.size
    np.testing.assert_array_equal(padded[(..., *padding.inside(shape))], array)
    assert padding.needed == (padded.shape != array.shape)


def test_padding_is_about_the_centre() -> None:
    padding = Padding.to_fit((3, 4, 9), (6, 6, 6))
    assert (padding.before, padding.after) == ((1, 1, 0), (2, 1, 0))
