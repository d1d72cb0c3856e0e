"""OME-Zarr 0.5 metadata of images and labels, as plain dictionaries.

OME-Zarr 0.5 knows scale and translation only; the full affine of a volume is in our own `crln` attributes
beside it. Why we write this ourselves: docs/decisions/0002-ome-zarr-writing.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from napari_crln.volume.labels import ClassTable
from napari_crln.volume.pyramid import Level

VERSION = "0.5"
Content = Literal["image", "label"]


def image(
    name: str,
    levels: Sequence[Level],
    content: Content,
    channels: bool = False,
    *,
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    unit: str | None = "millimeter",
) -> dict[str, Any]:
    """The `ome` attribute of a multiscale; with `channels` a leading c axis.

    `origin`: world z, y, x of the first voxel, in the `unit` of the levels' spacing (none: not stated).
    """
    space = [{"name": axis, "type": "space"} | ({"unit": unit} if unit else {}) for axis in "zyx"]
    lead = [{"name": "c", "type": "channel"}] if channels else []
    return {
        "version": VERSION,
        "multiscales": [
            {
                "name": name,
                "axes": lead + space,
                "datasets": [
                    {
                        "path": str(i),
                        "coordinateTransformations": _transform(levels, i, content, len(lead), origin),
                    }
                    for i in range(len(levels))
                ],
                "type": "mean" if content == "image" else "decimation",
            }
        ],
    }


def label(name: str, levels: Sequence[Level], table: ClassTable, offset: int) -> dict[str, Any]:
    """The `ome` attribute of a label image whose value for class k is k + offset (annotations: 1)."""
    values = [(c.index + offset, c) for c in table if c.index + offset > 0]
    return image(name, levels, "label") | {
        "image-label": {
            "colors": [{"label-value": v, "rgba": _rgba(c.colour, c.index)} for v, c in values],
            "properties": [{"label-value": v, "class": c.name, "source-id": c.source_id} for v, c in values],
            "source": {"image": "../../"},
        }
    }


def label_list(names: Sequence[str]) -> dict[str, Any]:
    """The `ome` attribute of the `labels` group."""
    return {"version": VERSION, "labels": list(names)}


def _transform(
    levels: Sequence[Level], index: int, content: Content, lead: int, origin: tuple[float, float, float]
) -> list[dict[str, Any]]:
    """Scale; and where the first voxel lies: for averaged levels that is the centre of the first cell."""
    first, level = levels[0], levels[index]
    steps: list[dict[str, Any]] = [{"type": "scale", "scale": [1.0] * lead + list(level.spacing)}]
    shift = list(origin)
    if content == "image":
        cells = zip(shift, level.spacing, first.spacing, strict=True)
        shift = [start + (coarse - fine) / 2 for start, coarse, fine in cells]
    if any(shift):
        steps.append({"type": "translation", "translation": [0.0] * lead + shift})
    return steps


def _rgba(colour: str, index: int) -> list[int]:
    """#rrggbb to four bytes; the background is transparent."""
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)] + [255 if index else 0]
