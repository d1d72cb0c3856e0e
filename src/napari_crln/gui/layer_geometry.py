"""Where a napari layer lies, as the rest of the package speaks of it: (D, H, W) array, (x, y, z) affine in mm.

A layer places its voxels by affine ∘ (translate, rotate, shear, scale), in its units. The last three axes are space,
and those before them (time, channel) must be single. They are z, y, x, unless the axis labels name them in another
order. Units are lengths, or "pixel", napari's word for none given: then the numbers are taken for millimetres, as
NIfTI readers do. World axes are taken for RAS+, which a layer cannot tell.

Arrays stay lazy here: what is not NumPy goes through Dask, and is read piece by piece by whoever slices it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from nibabel.orientations import inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from napari_crln.errors import GridMismatch, InvalidIntensity
from napari_crln.gui.layer_data import napari_affine, upright
from napari_crln.gui.tags import tag_of
from napari_crln.types import Affine
from napari_crln.volume.geometry import Grid, check_affine
from napari_crln.volume.source import Source

#: Keyword arguments of a layer, as `Layer.as_layer_data_tuple` and readers give them.
State: TypeAlias = Mapping[str, Any]
_SPACE = ("z", "y", "x")
_PIXEL = "pixel"


@dataclass(frozen=True, eq=False)
class PlacedArray:
    """A layer's voxels, (D, H, W), perhaps lazy, with their affine, voxel (x, y, z) to RAS+ mm.

    `unit` is the layer's own unit of length as pint names it ("millimeter"), or None if it gave none.
    """

    voxels: Any
    affine: Affine
    unit: str | None = None

    @property
    def grid(self) -> Grid:
        d, h, w = self.voxels.shape
        return Grid((d, h, w), self.affine)

    def to_ras(self) -> PlacedArray:
        """The same voxels, axes permuted and flipped to lie as close to RAS+ as that can bring them; a view."""
        orientation = io_orientation(self.affine)
        shape_xyz = self.voxels.shape[::-1]
        turned = self.voxels.transpose(2, 1, 0)[tuple(slice(None, None, int(f)) for _, f in orientation)]
        axes = np.argsort(orientation[:, 0])
        affine = self.affine @ inv_ornt_aff(orientation, shape_xyz)
        return PlacedArray(turned.transpose(*axes[::-1]), affine, self.unit)


def place(data: Any, state: State, name: str) -> PlacedArray:
    """Level 0 of a layer's data, its single axes dropped, with its place; no voxel is read.

    Raises
    ------
    InvalidIntensity
        For colour, 2D, and time or channel axes of more than one.
    GridMismatch
        For units that are no lengths, or an affine that makes no sense.
    """
    level = _finest(data, state)
    _check_axes(level.shape, state, name)
    lead = level.ndim - 3
    voxels = _lazy(level)[(0,) * lead]
    order = _order(state.get("axis_labels"), level.ndim)
    factors, unit = _millimetres(state.get("units"), level.ndim, name)
    matrix = layer_affine(state, level.ndim)
    spatial = [lead + axis for axis in order]
    affine = np.eye(4)
    affine[:3, :3] = matrix[np.ix_(spatial, spatial)]
    affine[:3, 3] = matrix[spatial, -1]
    affine[:3] *= np.array([factors[axis] for axis in order])[:, None]
    affine = napari_affine(affine)
    check_affine(affine, name)
    turned = voxels.transpose(*order)
    return PlacedArray(turned, _recorded(state, turned.shape, affine), unit)


def _recorded(state: State, shape: Sequence[int], affine: Affine) -> Affine:
    """The true affine of an oblique volume that the panel laid along the world's axes; the layer's own once somebody moved it."""
    recorded = tag_of(state.get("metadata") or {}).get("true_affine")
    if recorded is None:
        return affine
    d, h, w = shape
    true = Grid((d, h, w), np.asarray(recorded, np.float64))
    return true.affine if upright(true).difference(Grid((d, h, w), affine)) is None else affine


def recorded_source(state: State, placed: PlacedArray) -> Source | None:
    """The file that a layer came from, if its voxels still lie on that file's grid."""
    record = tag_of(state.get("metadata") or {}).get("source")
    if not isinstance(record, Mapping):
        return None
    source = Source.model_validate(record)
    same = source.grid.shape == placed.grid.shape and np.allclose(
        source.grid.affine, placed.affine, rtol=1e-6, atol=1e-6 * min(placed.grid.spacing)
    )
    return source if same else None


def layer_affine(state: State, ndim: int) -> NDArray[np.float64]:
    """The whole data → world matrix of a layer, (ndim + 1, ndim + 1), in its units."""
    from napari.utils.transforms import CompositeAffine

    parts = {
        key: state[key] for key in ("scale", "translate", "rotate", "shear") if state.get(key) is not None
    }
    given = {"scale": (1.0,) * ndim, "translate": (0.0,) * ndim} | parts
    inner = np.asarray(CompositeAffine(ndim=ndim, **given).affine_matrix, dtype=np.float64)
    outer = state.get("affine")
    matrix = np.eye(ndim + 1) if outer is None else _embedded(outer, ndim)
    return np.asarray(matrix @ inner, dtype=np.float64)


def _embedded(affine: Any, ndim: int) -> NDArray[np.float64]:
    """An affine of perhaps fewer axes, as one of the last axes of `ndim`."""
    small = np.asarray(getattr(affine, "affine_matrix", affine), dtype=np.float64)
    missing = ndim + 1 - len(small)
    full = np.eye(ndim + 1)
    full[missing:, missing:] = small
    return full


def _finest(data: Any, state: State) -> Any:
    multiscale = state.get("multiscale") or isinstance(data, list | tuple)
    return data[0] if multiscale else data


def _lazy(level: Any) -> Any:
    """NumPy and Dask arrays as they are; anything else that can be sliced (Zarr, HDF5 …) through Dask."""
    import dask.array as da

    if isinstance(level, np.ndarray | da.Array):
        return level
    return da.from_array(level, chunks=getattr(level, "chunks", None) or "auto", name=False)


def _check_axes(shape: Sequence[int], state: State, name: str) -> None:
    if state.get("rgb"):
        raise InvalidIntensity(
            "a colour (RGB) layer", "an image has one channel", "Split or convert it to grey first", name
        )
    if len(shape) < 3:
        raise InvalidIntensity(
            f"a layer of shape {tuple(shape)}", "a volume has three axes", "Give the whole volume", name
        )
    if any(size != 1 for size in shape[:-3]):
        raise InvalidIntensity(
            f"a layer of shape {tuple(shape)}",
            "the last three axes are space and those before them (time, channel) have one entry",
            "Split it along the first axes (right click on the layer: Split Stack)",
            name,
        )


def _order(labels: Any, ndim: int) -> tuple[int, int, int]:
    """Which of the last three axes are z, y, x: as the axis labels say, if they do, else as they come."""
    names = [str(label).lower() for label in labels[-3:]] if labels is not None and len(labels) >= 3 else []
    if ndim < 3 or sorted(names) != sorted(_SPACE):
        return 0, 1, 2
    z, y, x = (names.index(axis) for axis in _SPACE)
    return z, y, x


def _millimetres(units: Any, ndim: int, name: str) -> tuple[tuple[float, ...], str | None]:
    """Millimetres a unit of the last three axes, and the unit if all have the same."""
    names = _unit_names(units, ndim)
    if set(names) == {_PIXEL}:
        return (1.0,) * 3, None
    factors = tuple(_length(unit, names, name) for unit in names)
    return factors, names[0] if len(set(names)) == 1 else None


def _unit_names(units: Any, ndim: int) -> list[str]:
    import pint

    if units is None:
        return [_PIXEL] * 3
    several = [units] * ndim if isinstance(units, str | pint.Unit) else list(units)
    registry = pint.get_application_registry()
    return [str(registry.Unit(str(unit))) for unit in several][-3:]


def millimetres_a_unit(unit: str) -> float:
    """Millimetres of one unit of length, named as pint names it; pint's own errors for others."""
    import pint

    return float(pint.get_application_registry().Quantity(1.0, unit).to("millimeter").magnitude)


def _length(unit: str, units: Sequence[str], name: str) -> float:
    import pint

    try:
        return millimetres_a_unit(unit)
    except (pint.DimensionalityError, pint.UndefinedUnitError):
        raise GridMismatch(
            f"units {', '.join(units)} along z, y, x",
            "the three axes are lengths, or all three are pixels",
            'Set the layer\'s units, for example layer.units = ("mm", "mm", "mm")',
            name,
        ) from None
