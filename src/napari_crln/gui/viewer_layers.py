"""Layers of a viewer: themselves, and taken out of it. Qt-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from napari_crln.gui.tags import tag_of


def own(layer: Any) -> Any:
    """A layer itself: napari hands plugins proxies, and a selection of proxies is not shown."""
    return getattr(layer, "__wrapped__", layer)


@contextmanager
def same_selection(viewer: Any) -> Iterator[None]:
    """Select again, after layers were added, what was selected before: somebody may be painting there."""
    layers = viewer.layers
    selected, active = {own(layer) for layer in layers.selection}, own(layers.selection.active)
    yield
    if selected:
        layers.selection = selected
        layers.selection.active = active


def add_beneath(viewer: Any, layer: Any, contents: frozenset[str]) -> None:
    """Add a layer beneath the lowest of those whose tag names one of these contents; on top if there is none."""
    lowest = (i for i, each in enumerate(viewer.layers) if tag_of(each.metadata).get("content") in contents)
    viewer.layers.insert(next(lowest, len(viewer.layers)), layer)


def together(viewer: Any) -> AbstractContextManager[None]:
    """Layers that are removed within leave the scene at its end, or at the end of the first batch within.

    napari 0.9 collects garbage for each layer that leaves by itself, which holds the event loop for some 0.2 s; 0.6 has
    no batches.
    """
    batch = getattr(viewer.layers, "batched_update", nullcontext)
    return batch()


def remove(viewer: Any, layers: Iterable[Any]) -> None:
    """Take those layers away that are in the viewer, all deselected before the first of them goes.

    When a selected layer goes, napari shows the controls of another one, which may be of another size; the canvas is then resized
    and drawn at once. After a layer that was removed just before, and not drawn without since, that ended in a
    segmentation fault of Mesa's (napari 0.9, vispy 0.16, Qt 6.11).
    """
    gone = [layer for layer in map(own, layers) if layer in viewer.layers]
    if not viewer.layers.selection.isdisjoint(gone):
        viewer.layers.selection.difference_update(gone)
    with together(viewer) if len(gone) > 1 else nullcontext():
        for layer in gone:
            viewer.layers.remove(layer)
