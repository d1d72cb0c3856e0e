"""What tests of layers share: real napari layers, and where each of their voxels lies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Axes permuted and flipped, slightly oblique; (z, y, x) as napari takes it.
OBLIQUE = np.array(
    [[0.0, -0.8, 0.1, 12.0], [0.7, 0.0, 0.0, -5.0], [0.0, 0.2, 1.9, 30.0], [0.0, 0.0, 0.0, 1.0]]
)
#: Keyword arguments of layers, each another way of lying in the world; all without a shear that NIfTI lacks.
PLACEMENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "anisotropic": {"scale": (2.5, 0.5, 0.7), "translate": (10, -20, 30), "units": ("mm",) * 3},
    "micrometres": {"scale": (2, 0.3, 0.3), "translate": (5, 6, 7), "units": ("um",) * 3},
    "mixed units": {"scale": (0.002, 300, 300), "units": ("mm", "nm", "nm")},
    "flipped": {"scale": (1, -2, 3), "translate": (1, 2, 3), "units": ("mm",) * 3},
    "oblique affine": {"affine": OBLIQUE, "units": ("mm",) * 3},
    "affine over scale": {"affine": OBLIQUE, "scale": (2, 1, 0.5), "translate": (1, 2, 3)},
    "rotated": {"scale": (2, 1, 0.5), "rotate": (0, 0, 90), "translate": (4, 5, 6), "units": ("cm",) * 3},
}
_MM = {"millimeter": 1.0, "micrometer": 1e-3, "nanometer": 1e-6, "centimeter": 10.0, "pixel": 1.0}


def world_values(layer: Any, values: NDArray[Any] | None = None) -> dict[tuple[float, ...], float]:
    """Value at each voxel's place in the world, mm (z, y, x) rounded to a nanometre: no matter how it is stored."""
    data = np.asarray(layer.data) if values is None else values
    factors = [_MM[str(unit)] for unit in layer.units[-3:]]
    found = {}
    for index in np.ndindex(*data.shape):
        place = np.multiply(layer.data_to_world(index)[-3:], factors)
        found[tuple(float(p) + 0.0 for p in place)] = float(data[index])
    return found


def assert_same_world(one: dict[tuple[float, ...], float], other: dict[tuple[float, ...], float]) -> None:
    """The same values at the same places, to a millionth of the extent (NIfTI's float32)."""
    assert len(one) == len(other)
    first, second = (np.array([(*place, value) for place, value in each.items()]) for each in (one, other))
    size = float(np.abs(first[:, :3]).max())
    first, second = (_sorted(each, size) for each in (first, second))
    np.testing.assert_allclose(first[:, :3], second[:, :3], atol=2e-6 * size)
    np.testing.assert_array_equal(first[:, 3], second[:, 3])


def _sorted(rows: NDArray[Any], size: float) -> NDArray[Any]:
    """By place, rounded so that float32's last bits do not decide."""
    keys = np.round(rows[:, :3] / size, 5)
    return rows[np.lexsort(keys.T)]
