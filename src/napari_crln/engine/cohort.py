"""Cohorts that fit in memory: volumes on the device in their stored dtype, patches cut and normalised there.

A patch is drawn first (volume and corner, from the step's random stream) and cut after, so that every method
with the same seed sees the same patches. Volumes smaller than the patch are padded once, when they are
taken in: intensity with their minimum, targets with IGNORE, and the padding is marked as invalid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from napari_crln.errors import ProjectError
from napari_crln.types import IGNORE, ImageDHW, ShapeDHW, TargetDHW
from napari_crln.volume.intensity import Normalisation


@dataclass(frozen=True)
class Case:
    """One volume as training needs it."""

    name: str
    image: ImageDHW
    normalisation: Normalisation
    target: TargetDHW | None = None


@dataclass(frozen=True)
class _Held:
    case: Case
    image: Tensor  # padded, stored dtype, on the device
    target: Tensor | None  # padded, int16
    inside: tuple[slice, slice, slice]  # where the volume lies in the padded array
    centres: Tensor | None  # (n, 3) annotated voxels, where not all are
    foreground: Tensor | None  # (n, 3) foreground voxels


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

    def images(self, draws: Sequence[tuple[int, ShapeDHW]]) -> Tensor:
        """Normalised patches, (B, 1, D, H, W), float32."""
        return torch.stack([self._image(*draw) for draw in draws])

    def targets(self, draws: Sequence[tuple[int, ShapeDHW]]) -> Tensor:
        """Targets of the patches, (B, D, H, W), int16."""
        cut = []
        for index, corner in draws:
            target = self._held[index].target
            assert target is not None
            cut.append(target[_window(corner, self.patch)])
        return torch.stack(cut)

    def validity(self, draws: Sequence[tuple[int, ShapeDHW]]) -> Tensor:
        """True where a voxel is the volume's own and not padding, (B, D, H, W)."""
        masks = torch.zeros((len(draws), *self.patch), dtype=torch.bool, device=self.device)
        for mask, (index, corner) in zip(masks, draws, strict=True):
            inside = self._held[index].inside
            mask[
                tuple(
                    slice(max(0, s.start - c), max(0, s.stop - c))
                    for s, c in zip(inside, corner, strict=True)
                )
            ] = True
        return masks

    def _image(self, index: int, corner: ShapeDHW) -> Tensor:
        held = self._held[index]
        n = held.case.normalisation
        x = held.image[_window(corner, self.patch)].float()
        return ((x.clamp(n.low, n.high) - n.shift) * n.scale).unsqueeze(0)

    def _draw_one(self, rng: np.random.Generator) -> tuple[int, ShapeDHW]:
        """The same numbers are drawn whatever the volume, so that streams stay paired."""
        u_volume, u_kind, u_voxel, *u_corner = rng.random(6)
        index = int(u_volume * len(self._held))
        held = self._held[index]
        free = [n - p for n, p in zip(held.image.shape, self.patch, strict=True)]
        centres = held.foreground if u_kind < self.foreground else held.centres
        if centres is None or len(centres) == 0:
            return index, _shape(int(u * (f + 1)) for u, f in zip(u_corner, free, strict=True))
        voxel = centres[int(u_voxel * len(centres))].tolist()
        # The chosen voxel lies anywhere in the patch, as far as the border allows.
        corner = (v - int(u * p) for v, u, p in zip(voxel, u_corner, self.patch, strict=True))
        return index, _shape(min(max(c, 0), f) for c, f in zip(corner, free, strict=True))

    def _hold(self, case: Case) -> _Held:
        image, inside = _padded(_signed(case.image), self.patch, float(case.image.min()))
        target = None
        centres = foreground = None
        if case.target is not None:
            target = _padded(np.asarray(case.target, np.int16), self.patch, IGNORE)[0].to(self.device)
            if bool((case.target == IGNORE).any()):
                centres = (target != IGNORE).nonzero()
            foreground = (target > 0).nonzero() if self.foreground else None
        return _Held(case, image.to(self.device), target, inside, centres, foreground)


def _signed(image: ImageDHW) -> ImageDHW:
    """Torch has no arithmetic on wide unsigned integers: take the next dtype that holds the values."""
    wider = {np.dtype(np.uint16): np.int32, np.dtype(np.uint32): np.int64, np.dtype(np.uint64): np.float64}
    native = image.astype(image.dtype.newbyteorder("="), copy=False)
    return native.astype(wider.get(native.dtype, native.dtype), copy=False)


def _padded(array: ImageDHW, patch: ShapeDHW, fill: float) -> tuple[Tensor, tuple[slice, slice, slice]]:
    short = [max(0, p - n) for n, p in zip(array.shape, patch, strict=True)]
    before = [s // 2 for s in short]
    inside = tuple(slice(b, b + n) for b, n in zip(before, array.shape, strict=True))
    widths = [(b, s - b) for b, s in zip(before, short, strict=True)]
    padded = np.pad(array, widths, constant_values=fill) if any(short) else array
    return torch.from_numpy(np.ascontiguousarray(padded)), (inside[0], inside[1], inside[2])


def _window(corner: ShapeDHW, patch: ShapeDHW) -> tuple[slice, ...]:
    return tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))


def _shape(values: Iterable[int]) -> ShapeDHW:
    d, h, w = values
    return d, h, w
