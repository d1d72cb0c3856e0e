"""Sample data of napari's File menu: a few synthetic volumes, the first with its labels."""

from __future__ import annotations

from napari_crln.gui.layer_data import Layer, placement
from napari_crln.volume.geometry import Grid
from napari_crln.volume.phantom import CLASSES, SPACING, phantom_cohort

VOLUMES = 4
_COLOURS = {0: "transparent", 1: "#4477aa", 2: "#ee6677", 3: "#ccbb44", None: "transparent"}


def phantoms() -> list[Layer]:
    """Four images, uint8 (D, H, W), and the labels of the first; all but the first image are hidden."""
    images: list[Layer] = []
    labels: list[Layer] = []
    for phantom in phantom_cohort(VOLUMES):
        where = placement(Grid.from_spacing(phantom.image.shape, SPACING))
        shown = {"contrast_limits": (0, 255), "colormap": "gray", "visible": not images}
        images.append((phantom.image, {"name": phantom.name, **shown, **where}, "image"))
        if not labels:
            kwargs = {
                "name": f"{phantom.name} labels",
                "colormap": _COLOURS,
                "features": _features(),
                **where,
            }
            labels.append((phantom.labels, kwargs, "labels"))
    return [*images[::-1], *labels]


def _features() -> dict[str, list[object]]:
    """Names beside label values: napari shows them on hovering."""
    return {"index": list(range(len(CLASSES) + 1)), "class": ["background", *CLASSES]}
