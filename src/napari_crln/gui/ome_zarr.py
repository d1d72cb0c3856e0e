"""Layers as an OME-Zarr 0.5 image: multiscale, in the layer's own unit, with labels below the image.

OME-Zarr knows scale and translation only. A layer whose axes are permuted or flipped is turned to lie close to RAS+
first, as volumes of a project are; what rotation remains is in our own attribute `crln.affine` alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from napari_crln.durable import creating_folder
from napari_crln.errors import InvalidLabel
from napari_crln.gui.label_look import label_values, value_colours, value_names
from napari_crln.gui.layer_geometry import PlacedArray, State, millimetres_a_unit
from napari_crln.gui.tags import KEY
from napari_crln.volume import ome, pyramid, store
from napari_crln.volume.checks import check_same_grid
from napari_crln.volume.names import plain_name, same_file

#: Labels with more values than this are instances: their colours are not written out.
_MOST_COLOURS = 256


class Saved(NamedTuple):
    """One layer to save; `kind` is "image" or "labels"."""

    placed: PlacedArray
    name: str
    kind: str
    state: State


def save(path: Path, layers: Sequence[Saved]) -> None:
    """Write an image with its labels, or one labels layer alone; whole or not at all.

    Raises
    ------
    GridMismatch
        If labels do not lie on the image's grid.
    ProjectError
        If the path exists.
    InvalidLabel
        If labels are no integers, or two have the same name.
    """
    turned = [layer._replace(placed=layer.placed.to_ras()) for layer in layers]
    root = next((layer for layer in turned if layer.kind == "image"), turned[0])
    others = [layer for layer in turned if layer is not root]
    for layer in others:
        check_same_grid(root.placed.grid, layer.placed.grid, layer.name)
    names = _names(others)
    with creating_folder(path) as folder:
        _fill(folder, root)
        for name, layer in zip(names, others, strict=True):
            _fill(folder / "labels" / name, layer, source={"image": "../../"})
        if names:
            store.write_group(folder / "labels", {"ome": ome.label_list(names)})


def _fill(folder: Path, layer: Saved, source: dict[str, str] | None = None) -> None:
    voxels, (placed, unit) = _plain(layer), (layer.placed, layer.placed.unit)
    affine = placed.affine[:3] / (millimetres_a_unit(unit) if unit else 1.0)
    x, y, z = (float(v) for v in np.linalg.norm(affine[:, :3], axis=0))
    levels = pyramid.plan(placed.grid.shape, (z, y, x))
    content: ome.Content = "image" if layer.kind == "image" else "label"
    origin = (float(affine[2, 3]), float(affine[1, 3]), float(affine[0, 3]))
    described = ome.image(layer.name, levels, content, origin=origin, unit=unit)
    if content == "label":
        described["image-label"] = _image_label(voxels, layer.state) | ({"source": source} if source else {})
    attributes = {"ome": described, KEY: {"affine": placed.affine.tolist()}}
    store.write_multiscale(folder, voxels, levels, content, attributes)


def _plain(layer: Saved) -> Any:
    """The voxels in a dtype that OME-Zarr readers know."""
    voxels = layer.placed.voxels
    if voxels.dtype.kind == "b":
        return voxels.astype(np.uint8)
    if layer.kind != "image" and voxels.dtype.kind not in "iu":
        raise InvalidLabel(
            f"labels of {voxels.dtype}", "labels are integers", "Convert the layer to labels", layer.name
        )
    return voxels


def _image_label(voxels: Any, state: State) -> dict[str, Any]:
    values = label_values(voxels)
    if len(values) > _MOST_COLOURS:
        return {}
    colours, names = value_colours(state, values), value_names(state)
    rgba = {
        value: [int(colour[i : i + 2], 16) for i in (1, 3, 5)] + [255] for value, colour in colours.items()
    }
    return {
        "colors": [{"label-value": v, "rgba": rgba.get(v, [0, 0, 0, 0])} for v in values],
        "properties": [{"label-value": v, "class": names[v]} for v in values if v in names],
    }


def _names(layers: Sequence[Saved]) -> list[str]:
    names = [plain_name(layer.name) for layer in layers]
    counts = Counter(same_file(name) for name in names)
    double = next((name for name in names if counts[same_file(name)] > 1), None)
    if double is not None:
        raise InvalidLabel(
            f"two labels layers named {double!r}", "labels of an image have different names", "Rename one"
        )
    return names
