"""Sample data of napari's File menu: a synthetic cohort, a few of its volumes with labels, ready to train."""

from __future__ import annotations

from napari_crln.gui.layer_data import Layer, placement
from napari_crln.gui.tags import tag
from napari_crln.types import ShapeDHW
from napari_crln.volume.geometry import Grid
from napari_crln.volume.phantom import CLASSES, SPACING, Phantom, phantom_cohort

SHAPE: ShapeDHW = (32, 48, 48)
VOLUMES = 12
LABELLED = 4
#: Made for these phantoms.
PRESET = "demo"
_COLOURS = {0: "transparent", 1: "#4477aa", 2: "#ee6677", 3: "#ccbb44", None: "transparent"}


def phantoms() -> list[Layer]:
    """Twelve images, uint8 (D, H, W), and the labels of the first four; all but the first are hidden."""
    cohort = list(phantom_cohort(VOLUMES, shape=SHAPE))
    images = [_image(phantom, visible=number == 0) for number, phantom in enumerate(cohort)]
    labels = [_labels(phantom, visible=number == 0) for number, phantom in enumerate(cohort[:LABELLED])]
    return [*images, *labels[::-1]]  # the labels of the shown volume on top: napari selects that layer


def _image(phantom: Phantom, visible: bool) -> Layer:
    shown = {"contrast_limits": (0, 255), "colormap": "gray", "visible": visible}
    kwargs = {"name": phantom.name, "metadata": tag("sample", preset=PRESET), **shown, **_where(phantom)}
    return phantom.image, kwargs, "image"


def _labels(phantom: Phantom, visible: bool) -> Layer:
    kwargs = {
        "name": f"{phantom.name} labels",
        "metadata": tag("sample", coverage="dense"),
        "colormap": _COLOURS,
        "features": {"index": list(range(len(CLASSES) + 1)), "class": ["background", *CLASSES]},
        "visible": visible,
        **_where(phantom),
    }
    return phantom.labels, kwargs, "labels"


def _where(phantom: Phantom) -> dict[str, object]:
    d, h, w = phantom.image.shape
    return placement(Grid.from_spacing((d, h, w), SPACING))
