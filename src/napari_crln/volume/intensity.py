"""Intensities: whether an image can be used, and how a network sees it.

The image itself is kept as it came (stored dtype and scaling). What brings it to the network's range is
measured once at import and recorded with the volume, so that training, prediction and another machine apply
the very same numbers: `(clip(x, low, high) - shift) * scale`, in stored units.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from napari_crln.errors import InvalidIntensity
from napari_crln.types import ImageDHW, NormalisedDHW

Kind = Literal["zscore", "percentile", "none"]
#: Of a project for which none is chosen: in the shell, in the panel and in Python alike.
DEFAULT_KIND: Kind = "percentile"
Scaling = tuple[float, float]

PERCENTILES = (0.5, 99.5)
SAMPLE = 1 << 24  # voxels, at most, that percentiles are taken from
_SLAB = 1 << 22  # voxels a pass looks at together: bounds memory on volumes of any size


class Normalisation(BaseModel):
    """How one volume's stored values become the network's input."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Kind
    low: float = Field(description="stored values below are set to it")
    high: float = Field(description="stored values above are set to it")
    shift: float = Field(description="subtracted, stored units")
    scale: float = Field(description="factor after the shift; negative where the file's slope is")

    def apply(self, stored: ImageDHW) -> NormalisedDHW:
        """Normalise stored values of any shape; float32."""
        exact = stored.dtype.itemsize > 4 or (stored.dtype.kind in "iu" and stored.dtype.itemsize == 4)
        values = stored.astype(np.float64 if exact else np.float32)
        np.clip(values, self.low, self.high, out=values)
        np.subtract(values, self.shift, out=values)
        np.multiply(values, self.scale, out=values)
        return values.astype(np.float32, copy=False)


def measure(
    image: ImageDHW, kind: Kind, scaling: Scaling = (1.0, 0.0), where: str | Path | None = None
) -> Normalisation:
    """Measure a volume's normalisation, after checking that its voxels are finite and not all the same.

    zscore: mean 0, standard deviation 1 over all voxels. percentile: the 0.5th and 99.5th percentile to 0
    and 1, clipped. none: the file's own units, stored * slope + intercept.

    Raises
    ------
    InvalidIntensity
        If a voxel is NaN or infinite, the image is constant, or its dtype is not a real number.
    """
    check_dtype(image.dtype, where)
    low, high = _range(image, where)
    slope, intercept = scaling
    if kind == "none":
        return Normalisation(kind=kind, low=low, high=high, shift=-intercept / slope, scale=slope)
    sign = 1.0 if slope > 0 else -1.0
    if kind == "percentile":
        low, high = _percentiles(image, low, high)
        shift, width = low if sign > 0 else high, high - low
    else:
        shift, width = _moments(image, low)
    if not 1e-30 < width < 1e30:
        raise _out_of_range(low, high, where)
    return Normalisation(kind=kind, low=low, high=high, shift=shift, scale=sign / width)


def check_dtype(dtype: np.dtype[Any], where: str | Path | None = None) -> None:
    """Refuse colour, complex and other dtypes that are no real intensities."""
    real = (dtype.kind in "iu" and dtype.itemsize <= 8) or (dtype.kind == "f" and dtype.itemsize <= 8)
    if not real:
        raise InvalidIntensity(
            f"voxels of type {dtype}",
            "intensities are integers or floats of at most 64 bits, one value a voxel",
            "Convert the image to one real channel",
            where,
        )


def _slabs(image: ImageDHW) -> Iterator[NDArray[Any]]:
    rows = max(1, _SLAB // max(1, int(np.prod(image.shape[1:]))))
    for start in range(0, image.shape[0], rows):
        yield np.asarray(image[start : start + rows])


def _range(image: ImageDHW, where: str | Path | None) -> Scaling:
    low, high = np.inf, -np.inf
    for slab in _slabs(image):
        low, high = min(low, float(slab.min())), max(high, float(slab.max()))
        if not np.isfinite(slab.min() + 0.0) or not np.isfinite(slab.max() + 0.0):
            raise _not_finite(image, where)
    if low == high:
        raise InvalidIntensity(
            f"every voxel is {low:g}", "an image has contrast", "Check that the right file was given", where
        )
    return low, high


def _not_finite(image: ImageDHW, where: str | Path | None) -> InvalidIntensity:
    count = sum(int((~np.isfinite(slab)).sum()) for slab in _slabs(image))
    return InvalidIntensity(
        f"{count} NaN or infinite voxel{'s' if count > 1 else ''} of {int(np.prod(image.shape))}",
        "every intensity is a finite number",
        "Replace them in the file, for example by its smallest value",
        where,
    )


def _out_of_range(low: float, high: float, where: str | Path | None) -> InvalidIntensity:
    return InvalidIntensity(
        f"voxels from {low:g} to {high:g}",
        "intensities spread over more than 1e-30 and less than 1e30",
        "Rescale the image",
        where,
    )


def _moments(image: ImageDHW, origin: float) -> Scaling:
    """Mean and standard deviation in float64; `origin` near the data keeps the squares small."""
    with np.errstate(over="ignore", invalid="ignore"):  # the caller refuses what is not finite
        total = sum(float((slab.astype(np.float64) - origin).sum()) for slab in _slabs(image))
        mean = origin + total / int(np.prod(image.shape))
        squares = sum(float(np.square(slab.astype(np.float64) - mean).sum()) for slab in _slabs(image))
        return mean, float(np.sqrt(squares / int(np.prod(image.shape))))


def _percentiles(image: ImageDHW, low: float, high: float) -> Scaling:
    """Percentiles of an even sample; the full range where they coincide (a mostly constant image)."""
    step = max(1, -(-int(np.prod(image.shape)) // SAMPLE))
    parts = [slab.reshape(-1)[::step].copy() for slab in _slabs(image)]  # views would hold every slab
    sample = np.concatenate(parts)
    first, last = (float(value) for value in np.percentile(sample, PERCENTILES))
    return (first, last) if first < last else (low, high)
