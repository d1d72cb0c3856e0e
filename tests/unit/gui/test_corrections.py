from __future__ import annotations

import numpy as np
import pytest

from napari_crln.gui.corrections import as_background, covers, from_labels
from napari_crln.volume.annotate import Plane

SHAPE = (4, 5, 6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_begins_as_the_labels_where_nothing_is_annotated(axis: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, SHAPE, dtype=np.uint8)
    annotation = rng.integers(0, 2, SHAPE, dtype=np.uint8) * 3
    filled = annotation.copy()
    filling = from_labels(annotation, labels, Plane(axis, 2))
    filled[filling.indices] = filling.values
    plane = (slice(None),) * axis + (2,)
    expected = annotation.copy()
    expected[plane] = np.where(annotation[plane] == 0, labels[plane] + 1, annotation[plane])
    np.testing.assert_array_equal(filled, expected)
    assert filled[plane].min() > 0, "the whole slice is annotated"


def test_a_complete_slice_is_background_where_nothing_is_annotated() -> None:
    annotation = np.zeros(SHAPE, np.uint16)
    annotation[1, 2, 3] = 2
    filling = as_background(annotation, Plane(0, 1))
    annotation[filling.indices] = filling.values
    assert (annotation[1] == 1).sum() == 29
    assert annotation[1, 2, 3] == 2
    assert annotation[[0, 2, 3]].sum() == 0
    assert as_background(annotation, Plane(0, 1)).indices[0].size == 0, "nothing twice"


def test_maps_of_a_slab_have_only_its_slices() -> None:
    slab = ((1, 3), (0, 5), (0, 6))
    assert covers(None, SHAPE, Plane(0, 0))
    assert covers(slab, SHAPE, Plane(0, 2))
    assert not covers(slab, SHAPE, Plane(0, 3))
    assert not covers(slab, SHAPE, Plane(1, 2)), "part of it only"
