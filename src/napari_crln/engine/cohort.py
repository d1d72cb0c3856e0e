"""Cohorts that fit in memory: volumes on the device in their stored dtype, patches cut and normalised there.

A patch is drawn first (volume and corner, from the step's random stream) and cut after, so that every method
with the same seed sees the same patches. Volumes smaller than the patch are padded: targets with IGNORE,
intensities with the lowest of the patch's own, as prediction pads its windows. Padding is marked as invalid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from napari_crln.errors import GridMismatch, ProjectError
from napari_crln.types import IGNORE, ImageDHW, ShapeDHW, SpacingDHW, TargetDHW
from napari_crln.volume.intensity import Normalisation
from napari_crln.volume.patches import Padding


@dataclass(frozen=True)
class Case:
    """One volume as training needs it."""

    name: str
    image: ImageDHW
    normalisation: Normalisation
    target: TargetDHW | None = None
    #: mm, for those who look at what was learned; training does not.
    spacing: SpacingDHW = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.target is not None and self.target.shape != self.image.shape:
            raise GridMismatch(
                f"labels of shape {self.target.shape}",
                f"its image has {self.image.shape} (D, H, W)",
                "Restore the volume from a copy, or import it again",
                self.name,
            )


@dataclass(frozen=True)
class _Held:
    image: Tensor  # padded, on the device; stored dtype, or float32 where that needs float64 to normalise
    normalisation: Normalisation | None  # none: the image is normalised already
    target: Tensor | None  # padded, int16
    inside: tuple[slice, slice, slice]  # where the volume lies in the padded array
    centres: Tensor | None  # (n, 3) annotated voxels, where not all are; on the CPU, as draws are
    foreground: Tensor | None  # (n, 3) foreground voxels

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
        n = held.normalisation
        x = held.image[_window(corner, self.patch)].float()
        return (x if n is None else (x.clamp(n.low, n.high) - n.shift) * n.scale).unsqueeze(0)

    def _draw_one(self, rng: np.random.Generator) -> tuple[int, ShapeDHW]:
        """The same numbers are drawn whatever the volume, so that streams stay paired."""
        u_volume, u_kind, u_voxel, *u_corner = rng.random(6)
        index = int(u_volume * len(self._held))
        held = self._held[index]
        free = [n - p for n, p in zip(held.image.shape, self.patch, strict=True)]
        centres = held.centres
        if u_kind < self.foreground and held.foreground is not None and len(held.foreground):
            centres = held.foreground
        if centres is None or len(centres) == 0:
            return index, _shape(int(u * (f + 1)) for u, f in zip(u_corner, free, strict=True))
        voxel = centres[int(u_voxel * len(centres))].tolist()
        # The chosen voxel lies anywhere in the patch, as far as the border allows.
        corner = (v - int(u * p) for v, u, p in zip(voxel, u_corner, self.patch, strict=True))
        return index, _shape(min(max(c, 0), f) for c, f in zip(corner, free, strict=True))

    def _hold(self, case: Case) -> _Held:
        stored, normalisation = _holdable(case)
        d, h, w = stored.shape
        padding = Padding.to_fit((d, h, w), self.patch)
        image = torch.from_numpy(np.ascontiguousarray(padding.pad(stored))).to(self.device)
        target = None
        centres = foreground = None
        if case.target is not None:
            padded = padding.pad(np.asarray(case.target, np.int16), IGNORE)
            target = torch.from_numpy(np.ascontiguousarray(padded)).to(self.device)
            if bool((case.target == IGNORE).any()):
                centres = (target != IGNORE).nonzero().cpu()
            foreground = (target > 0).nonzero().cpu() if self.foreground else None
        return _Held(image, normalisation, target, padding.inside((d, h, w)), centres, foreground)


def _holdable(case: Case) -> tuple[ImageDHW, Normalisation | None]:
    """The volume in a dtype of torch's, and what is left to normalise when a patch is cut.

    float32 holds every value of up to 16 bits and its own. What is wider is normalised at once, in float64.
    """
    native = case.image.astype(case.image.dtype.newbyteorder("="), copy=False)
    if native.dtype == np.uint16:  # torch has no arithmetic on it
        return native.astype(np.int32), case.normalisation
    if native.dtype.itemsize > 2 and native.dtype != np.float32:
        return case.normalisation.apply(native), None
    return native, case.normalisation


def _window(corner: ShapeDHW, patch: ShapeDHW) -> tuple[slice, ...]:
    return tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))


def _shape(values: Iterable[int]) -> ShapeDHW:
    d, h, w = values
    return d, h, w
