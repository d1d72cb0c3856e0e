"""Open NIfTI files in napari: RAS+, scaled values, placed by the file's affine.

A NIfTI does not say whether it is an image or a segmentation. It is opened as labels where its intent code, its
folder or its name says so (`labelsTr/`, `…_seg.nii.gz`) *and* its values are integers that labels can be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from napari_crln.gui.layer_data import Layer, placement
from napari_crln.gui.tags import tag

if TYPE_CHECKING:
    from napari_crln.volume.nifti import Loaded

PathOrPaths: TypeAlias = str | Sequence[str]
Reader: TypeAlias = Callable[[PathOrPaths], list[Layer]]

_SUFFIXES = (".nii", ".nii.gz")
_LABEL_NAME = re.compile(r"(^|[_\-.])(labels?|seg|segmentation|mask|gt)$", re.IGNORECASE)
_LABEL_INTENT = 1002
_LARGEST_LABEL = 65_535


def get_reader(path: PathOrPaths) -> Reader | None:
    """The reader, if every path is a NIfTI file by its name; None leaves it to other plugins."""
    paths = _listed(path)
    return read if paths and all(p.lower().endswith(_SUFFIXES) for p in paths) else None


def read(path: PathOrPaths) -> list[Layer]:
    """One layer a file.

    Raises
    ------
    VolumeError
        If a file is damaged, not 3D, or without a sound grid; the message names it.
    """
    return [_layer(Path(p)) for p in _listed(path)]


def _listed(path: PathOrPaths) -> list[str]:
    return [path] if isinstance(path, str) else [str(p) for p in path]


def _layer(path: Path) -> Layer:
    from napari_crln.volume.nifti import read_image  # nibabel: not before a file is opened

    loaded = read_image(path)
    name = re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    values = _scaled(loaded.voxels, loaded.scaling)
    intent = int(loaded.source.read_header()["intent_code"])
    common = {"name": name, "metadata": _origin(loaded, path), **placement(loaded.grid)}
    if (intent == _LABEL_INTENT or _named_as_labels(path, name)) and _can_be_labels(values):
        return values.astype(np.min_scalar_type(int(values.max()))), common, "labels"
    return values, {**common, "contrast_limits": _limits(values), "colormap": "gray"}, "image"


def _origin(loaded: Loaded, path: Path) -> dict[str, Any]:
    """The file, and its grid for writing results back: kept through saving and through a project."""
    return {"source": path.name, **tag("file", source=loaded.source.model_dump(mode="json"))}


def _scaled(voxels: NDArray[Any], scaling: tuple[float, float]) -> NDArray[Any]:
    """Values as the file means them; the stored dtype where there is nothing to scale."""
    slope, intercept = scaling
    if scaling == (1.0, 0.0):
        return voxels
    return np.asarray(voxels * np.float32(slope) + np.float32(intercept), dtype=np.float32)


def _named_as_labels(path: Path, name: str) -> bool:
    return path.parent.name.lower().startswith("labels") or bool(_LABEL_NAME.search(name))


def _can_be_labels(values: NDArray[Any]) -> bool:
    low, high = values.min(), values.max()
    return bool(low >= 0 and high <= _LARGEST_LABEL and np.array_equal(values, np.rint(values)))


def _limits(values: NDArray[Any]) -> tuple[float, float]:
    """Contrast limits without the outliers, given so that napari need not look through the volume."""
    thinned = values[tuple(slice(None, None, max(1, n // 64)) for n in values.shape)]
    low, high = np.nanpercentile(
        thinned[np.isfinite(thinned)] if thinned.dtype.kind == "f" else thinned, (0.5, 99.5)
    )
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1.0)
