from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from napari_crln.engine import reading
from napari_crln.engine.cohort import Case
from napari_crln.engine.reading import unseen_classes
from napari_crln.types import IGNORE
from napari_crln.volume.intensity import Normalisation

NAMES = ("background", "one", "two", "three")
PLAIN = Normalisation(kind="none", low=0, high=1, shift=0, scale=1)


def case(target: np.ndarray | None) -> Case:
    shape = (2, 2, 2) if target is None else target.shape
    return Case("v", np.broadcast_to(np.uint8(0), shape), PLAIN, target)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_class_in_any_band_is_seen(monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    monkeypatch.setattr(reading, "_BAND", 10)
    target = np.full((3, 5, 7), IGNORE, np.int16)
    target[0, 0, 0], target[1, 2, 3], target[2, 4, 6] = 1, 3, 2
    assert unseen_classes(NAMES, [case(np.asarray(target, order=order))]) == []  # type: ignore[call-overload]
    target[2, 4, 6] = 0
    (warning,) = unseen_classes(NAMES, [case(target)])
    assert "'two'" in warning


def test_volumes_without_an_annotated_voxel_are_told() -> None:
    for target in (None, np.full((2, 2, 2), IGNORE, np.int16)):
        warnings = unseen_classes(NAMES[:1], [case(target)])
        assert warnings == ["volume v has no annotated voxel: it teaches nothing as labelled"]


def test_counting_takes_no_multiple_of_the_labels() -> None:
    target = np.zeros((128, 256, 256), np.int16)
    tracemalloc.start()
    try:
        unseen_classes(NAMES, [case(target)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < target.nbytes
