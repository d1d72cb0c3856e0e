"""Volumes that patches are drawn from: held on the device in their stored dtype, patches cut and normalised there.

A volume whose image is a `StreamedArray` stays on disk, and its patches are read (`streaming`); everything else is
the same, bit for bit.

A patch is drawn first (volume and corner, from the step's random stream) and cut after, so that every method
with the same seed sees the same patches. Volumes smaller than the patch are padded: targets with IGNORE,
intensities with the lowest of the patch's own, as prediction pads its windows. Padding is marked as invalid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_crln.engine.streaming import (
    StreamedTensor,
    StreamedVoxels,
    count_rows,
    is_annotated,
    is_foreground,
)
from napari_crln.errors import ProjectError
from napari_crln.types import IGNORE, ImageDHW, ShapeDHW, SpacingDHW, TargetDHW
from napari_crln.volume.intensity import Normalisation
from napari_crln.volume.patches import Padding
from napari_crln.volume.streamed import Region, StreamedArray


@dataclass(frozen=True)
class Case:
    """One volume as training needs it: in memory, or on disk as streamed arrays."""

    name: str
    image: ImageDHW | StreamedArray
    normalisation: Normalisation
    target: TargetDHW | StreamedArray | None = None
    #: mm, for those who look at what was learned; training does not.
    spacing: SpacingDHW = (1.0, 1.0, 1.0)

    def part(self, region: Region) -> ImageDHW | StreamedArray:
        """A region of the image; nothing is read or copied yet."""
        return self.image.within(region) if isinstance(self.image, StreamedArray) else self.image[region]


@dataclass(frozen=True)
class _Labels:
    target: Tensor | StreamedTensor | None = None  # padded, int16
    centres: Tensor | StreamedVoxels | None = None  # (n, 3) annotated voxels, where not all are; on the CPU
    foreground: Tensor | StreamedVoxels | None = None  # (n, 3) foreground voxels, on the CPU, as draws are


@dataclass(frozen=True)
class _Held:
    image: Tensor | StreamedTensor  # padded; stored dtype, or float32 where that needs float64 to normalise
    normalisation: Normalisation | None  # none: the image is normalised already
    inside: tuple[slice, slice, slice]  # where the volume lies in the padded array
    labels: _Labels

    @property
    def is_padded(self) -> bool:
        return any(s.stop - s.start < n for s, n in zip(self.inside, self.image.shape, strict=True))


class Cohort:
    """Labelled or unlabelled volumes that patches are drawn from, with replacement.

    Parameters
    ----------
    cases : volumes; all with targets, or all without
    patch : D, H, W
    device : where the volumes are held
    foreground : share of patches that are centred on a foreground voxel
    """

    def __init__(
        self, cases: Sequence[Case], patch: ShapeDHW, device: torch.device, foreground: float = 0.0
    ) -> None:
        if not cases:
            raise ProjectError(
                "no volume to draw patches from", "training needs at least one", "Import or label a volume"
            )
        self.patch, self.device, self.foreground = patch, device, foreground
        self._held = [self._hold(case) for case in cases]

    def __len__(self) -> int:
        return len(self._held)

    def draw(self, rng: np.random.Generator, count: int) -> list[tuple[int, ShapeDHW]]:
        """Draw `count` patches as (volume, corner)."""
        return [self._draw_one(rng) for _ in range(count)]

    @property
    def is_streamed(self) -> bool:
        """Whether some of its volumes are read from disk."""
        return any(isinstance(held.image, StreamedTensor) for held in self._held)

    def fetch(self, draws: Sequence[tuple[int, ShapeDHW]]) -> None:
        """Read what these patches need of streamed volumes; on any thread."""
        for index, corner in draws:
            for part in (self._held[index].image, self._held[index].labels.target):
                if isinstance(part, StreamedTensor):
                    part.fetch(_window(corner, self.patch))

    def images(self, draws: Sequence[tuple[int, ShapeDHW]]) -> Tensor:
        """Normalised patches, (B, 1, D, H, W), float32."""
        images = torch.stack([self._image(*draw) for draw in draws])
        if not any(self._held[index].is_padded for index, _ in draws):
            return images
        valid_B1DHW = self.validity(draws).unsqueeze(1)
        lowest = images.masked_fill(~valid_B1DHW, torch.inf).amin((1, 2, 3, 4), keepdim=True)
        return torch.where(valid_B1DHW, images, lowest)

    def targets(self, draws: Sequence[tuple[int, ShapeDHW]]) -> Tensor:
        """Targets of the patches, (B, D, H, W), int16."""
        cut = []
        for index, corner in draws:
            target = self._held[index].labels.target
            assert target is not None
            cut.append(target[_window(corner, self.patch)])
        return torch.stack(cut)

    def validity(self, draws: Sequence[tuple[int, ShapeDHW]]) -> Tensor:
        """True where a voxel is the volume's own and not padding, (B, D, H, W)."""
        masks = torch.zeros((len(draws), *self.patch), dtype=torch.bool, device=self.device)
        for mask, (index, corner) in zip(masks, draws, strict=True):
            inside = zip(self._held[index].inside, corner, strict=True)
            own = tuple(slice(max(0, s.start - c), max(0, s.stop - c)) for s, c in inside)
            mask[own].fill_(True)  # assigning would bring a constant to the device
        return masks

    def _image(self, index: int, corner: ShapeDHW) -> Tensor:
        held = self._held[index]
        n = held.normalisation
        x = held.image[_window(corner, self.patch)].to(torch.float32, copy=True)
        if n is not None:
            x.clamp_(n.low, n.high).sub_(n.shift).mul_(n.scale)
        return x.unsqueeze(0)

    def _draw_one(self, rng: np.random.Generator) -> tuple[int, ShapeDHW]:
        """The same numbers are drawn whatever the volume, so that streams stay paired."""
        u_volume, u_kind, u_voxel, *u_corner = rng.random(6)
        index = int(u_volume * len(self._held))
        held = self._held[index]
        free = [n - p for n, p in zip(held.image.shape, self.patch, strict=True)]
        centres, foreground = held.labels.centres, held.labels.foreground
        if u_kind < self.foreground and foreground is not None and len(foreground):
            centres = foreground
        if centres is None or len(centres) == 0:
            return index, _shape(int(u * (f + 1)) for u, f in zip(u_corner, free, strict=True))
        voxel = centres[int(u_voxel * len(centres))].tolist()
        # The chosen voxel lies anywhere in the patch, as far as the border allows.
        corner = (v - int(u * p) for v, u, p in zip(voxel, u_corner, self.patch, strict=True))
        return index, _shape(min(max(c, 0), f) for c, f in zip(corner, free, strict=True))

    def _hold(self, case: Case) -> _Held:
        d, h, w = case.image.shape
        padding = Padding.to_fit((d, h, w), self.patch)
        left = case.normalisation if _fits_float32(case.image.dtype) else None
        holdable = partial(_holdable, case.normalisation)
        if isinstance(case.image, StreamedArray):
            image: Tensor | StreamedTensor = StreamedTensor(case.image, padding, 0, holdable, self.device)
        else:
            stored = padding.pad(holdable(case.image))
            image = torch.from_numpy(np.ascontiguousarray(stored)).to(self.device)
        if isinstance(case.target, StreamedArray):
            labels = self._stream_labels(case.target, padding)
        else:
            labels = self._hold_labels(case.target, padding)
        return _Held(image, left, padding.inside((d, h, w)), labels)

    def _hold_labels(self, target: TargetDHW | None, padding: Padding) -> _Labels:
        if target is None:
            return _Labels()
        padded = padding.pad(np.asarray(target, np.int16), IGNORE)
        held = torch.from_numpy(np.ascontiguousarray(padded)).to(self.device)
        centres = (held != IGNORE).nonzero().cpu() if bool((target == IGNORE).any()) else None
        return _Labels(held, centres, (held > 0).nonzero().cpu() if self.foreground else None)

    def _stream_labels(self, target: StreamedArray, padding: Padding) -> _Labels:
        of_annotated, of_foreground = count_rows(target, [is_annotated, is_foreground])
        sparse = of_annotated.sum() < np.prod(target.shape)
        return _Labels(
            StreamedTensor(target, padding, IGNORE, np.asarray, self.device),
            StreamedVoxels(target, padding.before, is_annotated, of_annotated) if sparse else None,
            StreamedVoxels(target, padding.before, is_foreground, of_foreground) if self.foreground else None,
        )


def _fits_float32(dtype: np.dtype[Any]) -> bool:
    """Whether float32 holds every value: those of up to 16 bits, and its own."""
    return dtype.itemsize <= 2 or dtype.newbyteorder("=") == np.float32


def _holdable(normalisation: Normalisation, stored: ImageDHW) -> ImageDHW:
    """Stored values in a dtype of torch's; what is wider than float32 is normalised at once, in float64."""
    native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if native.dtype == np.uint16:  # torch has no arithmetic on it
        return native.astype(np.int32)
    return native if _fits_float32(native.dtype) else normalisation.apply(native)


def _window(corner: ShapeDHW, patch: ShapeDHW) -> tuple[slice, ...]:
    return tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))


def _shape(values: Iterable[int]) -> ShapeDHW:
    d, h, w = values
    return d, h, w
