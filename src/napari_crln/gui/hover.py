"""What the maps say under the mouse, in napari's status bar.

napari tells the value of the active layer only, and of a live image the 8 bits that are stored. Here every visible
map, and the volume's labels and prediction, adds its class's name or its value in its own unit. napari computes its
text first, in a thread of its own; it is taken up when it arrives, and added to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from napari.layers import Image, Labels, Points

from napari_crln.gui.label_look import value_names
from napari_crln.gui.tags import tag_of
from napari_crln.gui.view_direction import direction_of_view
from napari_crln.gui.viewer_layers import own
from napari_crln.gui.viewer_space import in_units_of
from napari_crln.previews import Quantisation

_TOLD = frozenset({"preview", "annotation", "labels", "prediction"})
#: What the volume's own layers are called; not as a live one that may lie over them.
_STORED = {"annotation": "annotation", "labels": "labels", "prediction": "stored prediction"}
_BETWEEN = " · "


class Hover:
    """Adds to a viewer's status; until closed.

    Parameters
    ----------
    viewer : napari's
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = own(viewer)
        self._ours: Any = (
            None  # the status that was set last: napari tells of it when this callback has ended
        )
        # Last: napari's window shows what the event brought, so it must have done so before we set another.
        self._viewer.events.status.connect(self._on_status, position="last")

    def close(self) -> None:
        """Add no more."""
        self._viewer.events.status.disconnect(self._on_status)

    def told(self) -> str:
        """What all maps say at the mouse, from the top layer down; "" where none says anything."""
        return _BETWEEN.join(text for layer in reversed(self._viewer.layers) if (text := self._of(layer)))

    def _of(self, layer: Any) -> str:
        facts = tag_of(layer.metadata)
        if facts.get("content") not in _TOLD or not layer.visible or facts.get("generation") == 0:
            return ""
        value = self._value(layer)
        return "" if value is None else described(layer, facts, value)

    def _value(self, layer: Any) -> Any:
        viewer = self._viewer
        direction, displayed = direction_of_view(viewer), list(viewer.dims.displayed)
        if len(displayed) == 3 and (direction is None or isinstance(layer, Image)):
            return None  # an image in 3D is a projection: no voxel is under the mouse
        value = layer.get_value(
            in_units_of(viewer, layer, viewer.cursor.position),
            view_direction=direction, dims_displayed=displayed, world=True,
        )  # fmt: skip
        return value[-1] if isinstance(value, tuple) else value  # of a multiscale layer: level and value

    def _on_status(self, event: Any) -> None:
        if event.value == self._ours or not self._viewer.mouse_over_canvas or not _is_of_mouse(event.value):
            return
        told = self.told()
        if told:
            self._ours = self._with(event.value, told)
            self._viewer.status = self._ours

    def _with(self, status: Any, told: str) -> Any:
        if isinstance(status, str):
            return told if status == "Ready" else f"{status}    {told}"
        active = self._viewer.layers.selection.active
        ours = active is not None and tag_of(active.metadata).get("content") in _TOLD and active.visible
        # Of a layer of ours the place is enough: its value follows, in words.
        place = status.get("coords", "") if ours else status["coordinates"]
        return {**status, "coordinates": f"{place}  {told}"}


def _is_of_mouse(status: Any) -> bool:
    """Whether a status tells what is under the mouse, and is no message of somebody else's."""
    return "coordinates" in status if isinstance(status, Mapping) else status == "Ready" or " » " in status


def described(layer: Any, facts: Mapping[str, Any], value: Any) -> str:
    """A value of a layer in words: `prediction: body`, `clues (body): +1.3`."""
    name = str(facts["map"]).replace("_", "-") if "map" in facts else _STORED[facts["content"]]
    if isinstance(layer, Points):
        return f"anchor: {layer.features['class'].iloc[int(value)]}"
    if isinstance(layer, Labels):
        return f"{name}: {value_names({'features': layer.features}).get(int(value), str(int(value)))}"
    about = ", ".join(_about(facts))
    number = int(value) * facts["scale"] + facts["offset"]
    return f"{name}{f' ({about})' if about else ''}: {_rounded(number, facts)}"


def _about(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts.get("class"):
        yield str(facts["class"])
    if facts.get("prototype"):
        yield f"prototype {facts['prototype']}"


def _rounded(number: float, facts: Mapping[str, Any]) -> str:
    """As many digits as the stored steps are worth; clues with their sign."""
    digits = 2 if Quantisation(scale=facts["scale"]).scale < 0.02 else 1
    if facts.get("map") == "clues":
        return f"{number + 0.0:+.{digits}f}" if round(number, digits) else f"{0:.{digits}f}"
    return f"{number:.{digits}f}"
