"""Many layers that go at once: napari collects garbage for each that leaves the scene by itself, some 0.2 s each."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from napari_crln.gui.viewer_layers import remove, together

pytestmark = pytest.mark.gui


@contextmanager
def full_collections() -> Iterator[list[int]]:
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            seen.append(1)

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)


@pytest.fixture
def viewer(make_napari_viewer: Any) -> Any:
    viewer = make_napari_viewer()
    for number in range(6):
        viewer.add_image(np.zeros((4, 8, 8), np.float32), name=f"{number}")
    if not hasattr(viewer.layers, "batched_update"):
        pytest.skip("this napari has no batches")
    return viewer


def test_layers_leave_the_scene_at_once(viewer: Any) -> None:
    kept = viewer.layers[0]
    with full_collections() as seen:
        remove(viewer, list(viewer.layers[1:]))
    assert list(viewer.layers) == [kept]
    assert len(seen) <= 2, "a collection for each layer"
    assert len(viewer.window._qt_viewer.canvas.layer_to_visual) == 1


def test_a_batch_of_single_removals(viewer: Any) -> None:
    viewer.layers.selection.clear()
    with full_collections() as seen, together(viewer):
        for layer in list(viewer.layers):
            remove(viewer, [layer])
    assert not viewer.layers
    assert len(seen) <= 2, "a collection for each layer"
