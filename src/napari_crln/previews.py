"""The form of `preview.zarr`: what engine and viewer must both know of a generation of maps.

A generation is a Zarr v3 group `g<8 digits>` that appears whole, by a rename, and never changes; numbers only
grow. It holds the maps of one box of one volume, the `region` of its record: first the slab about the slice that
the viewer looks at, then the whole volume. All arrays are uint8, as viewers draw that fastest, and have the
shape of the region: (D, H, W), or (C, D, H, W) for maps with a value a class.

    value = stored * scale + offset

Labels and `changed` are plain numbers (scale 1, offset 0). Values have one scale a map and generation, the same for
all classes. Scales come in steps of √2, so that colours seldom jump from one generation to the next.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from napari_crln.types import ShapeDHW, SpacingDHW

SCHEMA = 1
#: Key of our attributes in a generation's group.
KEY = "crln"
#: Most classes: `changed` holds class index + 1 in 8 bits.
MAX_CLASSES = 255

#: Most anchors that a generation names; of more, every so many.
MAX_ANCHORS = 512

MapName = Literal["pseudo_label", "rectified", "changed", "similarity", "clues", "uncertainty", "prediction"]
Region = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

#: What each map means. A method without clues has no rectified, changed, similarity and clues.
MEANINGS: dict[MapName, str] = {
    "pseudo_label": "class index of the teacher's label, before rectification",
    "rectified": "class index of the teacher's label after rectification by clues",
    "changed": "0: rectification left the voxel as it was; k + 1: it gave class k",
    "similarity": "score of the class's prototypes at the finest level, the largest or that of the chosen one, a.u.",
    "clues": "M(x), the clue map, logit-like, signed: for the class above 0, against it below",
    "uncertainty": "1 - p of the rectified label's class, 0-1",
    "prediction": "class index of the segmentation as it would be predicted now",
}
#: Maps with one value a class, (C, D, H, W).
PER_CLASS: tuple[MapName, ...] = ("similarity", "clues")

_NAME = re.compile(r"g(\d{8})")


class Quantisation(BaseModel):
    """value = stored * scale + offset, for stored 0 … 255."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    scale: float = Field(default=1.0, gt=0)
    offset: float = 0.0

    @property
    def limits(self) -> tuple[float, float]:
        """Values of stored 0 and 255."""
        return self.offset, 255 * self.scale + self.offset

    def quantise(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Nearest stored values; beyond the limits they are clipped, NaN is stored as 0."""
        stored = (np.asarray(values, np.float32) - np.float32(self.offset)) / np.float32(self.scale)
        return np.asarray(np.nan_to_num(stored).round().clip(0, 255), np.uint8)

    def values(self, stored: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The values that stored ones stand for, within half a scale."""
        return stored.astype(np.float32) * np.float32(self.scale) + np.float32(self.offset)


class MapRecord(Quantisation):
    """One map of a generation."""

    meaning: str = ""


class FocusRecord(BaseModel):
    """The slice that a generation was made for; `generation` is that of the viewer's Focus, 0 if it sent none."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    axis: Literal[0, 1, 2]
    index: int
    generation: int = 0


class AnchorRecord(BaseModel):
    """Anchors of CPS: voxels of the volume that the last step which saw it was unsure of, and learned from.

    At most `MAX_ANCHORS`; validation volumes have none, and neither have methods without CPS.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    step: int = Field(description="that step, counted as optimiser steps done")
    points: tuple[tuple[int, int, int, int], ...] = Field(description="class index, then voxel along D, H, W")


class PreviewRecord(BaseModel):
    """Attributes of a generation, under the key `crln` of its group."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA
    generation: int
    volume: str
    step: int = Field(description="optimiser steps done when the first of it was computed")
    step_done: int = Field(description="the same, when the last of it was")
    time: float = Field(default=0.0, description="wall clock, s since 1970; for people only")
    shape: ShapeDHW = Field(description="of the whole volume, voxels")
    region: Region = Field(description="start and stop along D, H, W: the box that the arrays cover")
    spacing: SpacingDHW = Field(description="mm a voxel along D, H, W")
    classes: tuple[str, ...]
    focus: FocusRecord
    maps: dict[str, MapRecord]
    prototype: int = Field(
        default=0, description="whose score `similarity` is, from 1; 0: the largest of all"
    )
    anchors: AnchorRecord | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the arrays cover the volume."""
        return all(
            (start, stop) == (0, size) for (start, stop), size in zip(self.region, self.shape, strict=True)
        )

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Where the arrays belong in the volume."""
        d, h, w = (slice(start, stop) for start, stop in self.region)
        return d, h, w


def group_name(generation: int) -> str:
    """`g00000012`."""
    return f"g{generation:08d}"


def parse_group_name(name: str) -> int | None:
    """The generation of a group; None for what is no generation."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def exact() -> Quantisation:
    """For labels: the number itself."""
    return Quantisation()


def unit() -> Quantisation:
    """0 … 1 for 0 … 255."""
    return Quantisation(scale=1 / 255)


def symmetric(low: float, high: float) -> Quantisation:
    """0 at 128, and room for low … high on either side."""
    limit = _stepped(max(abs(low), abs(high)))
    return Quantisation(scale=limit / 127, offset=-128 * limit / 127)


def spanning(low: float, high: float) -> Quantisation:
    """Room for low … high; ends lie on a grid of an eighth of the span."""
    step = _stepped(max(high - low, 1e-6 * max(abs(low), abs(high)))) / 8
    first, last = math.floor(low / step), math.ceil(high / step)
    return Quantisation(scale=max(1, last - first) * step / 255, offset=first * step)


def _stepped(size: float) -> float:
    """The smallest power of √2 that is not smaller; 1 for 0."""
    if not (math.isfinite(size) and size > 1e-30):
        return 1.0
    return float(2 ** (math.ceil(2 * math.log2(size) - 1e-9) / 2))
