"""In which dtype a cohort holds stored intensities, and what it makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_crln.types import ImageDHW, NormalisedDHW
from napari_crln.volume.intensity import Normalisation


def fits_float32(dtype: np.dtype[Any]) -> bool:
    """Whether float32 holds every value: those of up to 16 bits, and its own."""
    return dtype.itemsize <= 2 or dtype.newbyteorder("=") == np.float32


def holdable_values(normalisation: Normalisation, stored: ImageDHW) -> ImageDHW:
    """Stored values in a dtype of torch's; what is wider than float32 is normalised at once, in float64."""
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    return native if fits_float32(native.dtype) else normalisation.apply(native)


def normalised_values(normalisation: Normalisation, stored: ImageDHW) -> NormalisedDHW:
    """What a cohort does with a cut patch, to the bit, on the thread that reads it.

    Torch's threads wait for each other at the end of each of its operations, and for the threads that decode.
    """
    x = stored.astype(np.float32)
    np.clip(x, normalisation.low, normalisation.high, out=x)
    x -= np.float32(normalisation.shift)
    x *= np.float32(normalisation.scale)
    return x
