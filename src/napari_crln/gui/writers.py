"""Save layers from napari: NIfTI for one image or labels layer, OME-Zarr 0.5 for an image with its labels.

A layer that came from a NIfTI file and was not moved is written with that file's header, so that affine, qform
and sform are bit-identical; any other gets a header from its scale, translation, rotation, affine and units.
The dtype is kept where the format has it (bool becomes uint8; float16 in NIfTI, float32).

napari's dialog has asked before an existing file is replaced, so a file of exactly the name given is replaced,
whole or not at all. A folder is never replaced: the dialog does not ask for folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.errors import InvalidLabel, UsageError
from napari_crln.gui.layer_data import Layer
from napari_crln.gui.layer_geometry import State, place, recorded_source
from napari_crln.gui.ome_zarr import Saved, save
from napari_crln.volume import nifti
from napari_crln.volume.geometry import Grid
from napari_crln.volume.nifti_bytes import is_nifti
from napari_crln.volume.source import Source

#: Units whose numbers would be tiny in millimetres; written as NIfTI's micron.
_SMALL = ("micrometer", "nanometer")


def write_nifti_image(path: str, data: Any, state: dict[str, Any]) -> list[str]:
    """Save an image layer as `.nii` or `.nii.gz`; an existing file of that name is replaced.

    Raises
    ------
    InvalidIntensity, GridMismatch
        If the layer is no 3D volume of one channel with a place.
    UsageError
        If the name does not end in .nii or .nii.gz.
    """
    voxels, source = _for_file(path, data, state)
    nifti.write_image(path, voxels, source, overwrite=True)
    return [path]


def write_nifti_labels(path: str, data: Any, state: dict[str, Any]) -> list[str]:
    """Save a labels layer, its values as they are; errors as of `write_nifti_image`."""
    ids, source = _for_file(path, data, state)
    nifti.write_ids(path, _integers(ids, _name(state)), source, overwrite=True)
    return [path]


def write_ome_zarr(path: str, layers: Sequence[Layer]) -> list[str]:
    """Save an image layer, with the labels layers that lie on its grid, or one labels layer alone, as OME-Zarr 0.5.

    Raises
    ------
    ProjectError
        If the path exists: a folder is never replaced.
    InvalidIntensity, GridMismatch
        If a layer is no 3D volume, or labels do not lie on the image's grid.
    """
    save(Path(path), [_named(layer) for layer in layers])
    return [path]


def write_ome_zarr_labels(path: str, data: Any, state: dict[str, Any]) -> list[str]:
    """Save one labels layer as OME-Zarr; errors as of `write_ome_zarr`."""
    return write_ome_zarr(path, [(data, state, "labels")])


def _for_file(path: str, data: Any, state: State) -> tuple[NDArray[Any], Source]:
    """A layer's voxels in RAS+ order and the source to write them by."""
    if not is_nifti(Path(path)):
        raise UsageError(
            f"name {Path(path).name!r}", "NIfTI files end in .nii or .nii.gz", "Choose such a name", path
        )
    name = _name(state)
    placed = place(data, state, name)
    voxels = np.asarray(placed.voxels)
    voxels = voxels.astype(np.uint8) if voxels.dtype == bool else voxels
    source = recorded_source(state, placed)
    if source is not None:
        return voxels, source
    made_up = Source.made_up(
        name,
        Grid(placed.grid.shape, placed.affine),
        voxels.dtype,
        "micron" if placed.unit in _SMALL else "mm",
    )
    return made_up.to_stored(voxels.T), made_up


def _integers(ids: NDArray[Any], name: str) -> NDArray[Any]:
    if ids.dtype.kind not in "iu":
        raise InvalidLabel(
            f"labels of {ids.dtype}", "labels are integers", "Convert the layer to labels", name
        )
    return ids


def _named(layer: Layer) -> Saved:
    data, state, kind = layer
    return Saved(place(data, state, _name(state)), _name(state), kind, state)


def _name(state: State) -> str:
    return str(state.get("name") or "layer")
