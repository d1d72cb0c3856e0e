"""The live maps: what each shows, and how. No napari here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from napari_crln.volume.labels import LabelClass

PREFIX = "crln: "


@dataclass(frozen=True)
class LiveMap:
    """One live layer.

    Parameters
    ----------
    key : name of its array in a preview; `anchors` are in the preview's record
    title : what follows `crln: ` in the layer's name
    tip : for a person, with the unit
    """

    key: str
    title: str
    kind: Literal["labels", "image", "points"]
    tip: str
    colormap: str = ""

    @property
    def layer_name(self) -> str:
        return PREFIX + self.title


LIVE_MAPS = (
    LiveMap("pseudo_label", "pseudo-label", "labels", "The teacher's label of each voxel, before rectification."),
    LiveMap("rectified", "rectified", "labels", "The pseudo-label after rectification: what the student learns."),
    LiveMap("changed", "changed", "labels", "Voxels whose label rectification changed, by the class it gave them."),
    LiveMap("similarity", "similarity", "image", "Similarity of each voxel to the prototypes of the chosen class.",
            colormap="magma"),
    LiveMap("clues", "clues", "image", "DIM's clue map M of the chosen class: red for it, blue against it, "
            "nothing at 0 (no unit).", ),
    LiveMap("uncertainty", "uncertainty", "image", "1 − p of the label's class, 0 to 1: bright is uncertain.",
            ),
    LiveMap("anchors", "anchors", "points", "Voxels that the last training step on this volume was unsure of and "
            "learned from (CPS), in the colours of their classes.", ),
    LiveMap("prediction", "prediction", "labels", "The segmentation as the model would give it now."),
)  # fmt: skip
BY_KEY = {each.key: each for each in LIVE_MAPS}
#: Ticked before anybody has chosen: few, so that the picture stays readable.
DEFAULT_SHOWN = frozenset({"prediction", "changed"})


def label_colours(classes: Iterable[LabelClass]) -> dict[int | None, Any]:
    """Colour of each class index as napari's direct colour map takes it; background is transparent."""
    colours: dict[int | None, Any] = {each.index: each.colour for each in classes}
    return {**colours, 0: "transparent", None: "transparent"}
