"""Volumes that patches are drawn from: held on the device in their stored dtype, patches cut and normalised there.

Where an image is a `StreamedArray` it stays on disk, and its patches are read (`streaming`); labels are held all the same,
so that they may change. Everything else is the same, bit for bit.

A patch is drawn first (volume and corner, from the step's random stream) and cut after, so that every method
with the same seed sees the same patches. Volumes smaller than the patch are padded: targets with IGNORE,
intensities with the lowest of the patch's own, as prediction pads its windows. Padding is marked as invalid.

Labels may change while training runs: `prepare` does the work on any thread, `relabel` puts it into place between
two steps. What is drawn follows from the labels as they are, whatever they were before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from napari_crln.engine.annotated import AnnotatedVoxels
from napari_crln.engine.holding import fits_float32, holdable_values, normalised_values
from napari_crln.engine.reading import naming
from napari_crln.engine.streaming import StreamedTensor
from napari_crln.errors import GridMismatch, ProjectError
from napari_crln.types import IGNORE, ImageDHW, ShapeDHW, SpacingDHW, TargetDHW
from napari_crln.volume.intensity import Normalisation
from napari_crln.volume.patches import Padding
from napari_crln.volume.streamed import Region, StreamedArray

if TYPE_CHECKING:
    from napari_crln.volume.annotation import Box

#: A patch: index of the volume in its cohort, and the corner in the padded volume.
PatchDraw: TypeAlias = tuple[int, ShapeDHW]


@dataclass(frozen=True)
class Case:
    """One volume as training needs it: its image in memory, or on disk as a streamed array."""

    name: str
    image: ImageDHW | StreamedArray
    normalisation: Normalisation
    target: TargetDHW | None = None
    #: mm, for those who look at what was learned; training does not.
    spacing: SpacingDHW = (1.0, 1.0, 1.0)
    #: Of the annotation that the target is of; 0 without one.
    revision: int = 0

    def __post_init__(self) -> None:
        if self.target is not None and self.target.shape != tuple(self.image.shape):
            raise GridMismatch(
                f"labels of shape {self.target.shape}",
                f"its image has {tuple(self.image.shape)} (D, H, W)",
                "Restore the volume from a copy, or import it again",
                self.name,
            )

    def part(self, region: Region) -> ImageDHW | StreamedArray:
        """A region of the image; nothing is read or copied yet."""
        return self.image.within(region) if isinstance(self.image, StreamedArray) else self.image[region]


@dataclass(frozen=True)
class _Labels:
    target: Tensor  # padded, int16, on the device
    annotated: AnnotatedVoxels
    foreground: Tensor | None  # (n, 3) foreground voxels of the padded volume, on the CPU
    owned: bool  # whether nobody else has the target's memory, so that it may be written


@dataclass(frozen=True)
class _Held:
    name: str
    image: Tensor | StreamedTensor  # padded; stored dtype, or float32 where that needs float64 to normalise
    normalisation: Normalisation | None  # none: the image is normalised already
    inside: tuple[slice, slice, slice]  # where the volume lies in the padded array
    labels: _Labels | None

    @property
    def is_padded(self) -> bool:
        return any(s.stop - s.start < n for s, n in zip(self.inside, self.image.shape, strict=True))


@dataclass(frozen=True, eq=False)
class Relabelling:
    """New labels of a volume, ready to be put into place."""

    name: str
    #: Targets of a box of the padded volume, int16.
    values: TargetDHW
    box: tuple[slice, ...]
    annotated: AnnotatedVoxels
    foreground: Tensor | None


class Cohort:
    """Labelled or unlabelled volumes that patches are drawn from, with replacement.

    Parameters
    ----------
    cases : volumes; all with targets, or all without
    patch : D, H, W
    device : where the volumes are held
    foreground : share of patches that are centred on a foreground voxel
    allow_empty : without a volume, until one is admitted nothing may be drawn
    """

    def __init__(
        self,
        cases: Sequence[Case],
        patch: ShapeDHW,
        device: torch.device,
        foreground: float = 0.0,
        *,
        allow_empty: bool = False,
    ) -> None:
        if not cases and not allow_empty:
            raise ProjectError(
                "no volume to draw patches from", "training needs at least one", "Import or label a volume"
            )
        self.patch, self.device, self.foreground = patch, device, foreground
        self._held = [self._hold(case) for case in cases]

    def __len__(self) -> int:
        return len(self._held)

    @property
    def names(self) -> tuple[str, ...]:
        """Of its volumes, in the order of draws."""
        return tuple(held.name for held in self._held)

    def affected(self, name: str, box: Box) -> Box:
        """The box of which `prepare` needs the targets if a box of a volume has changed."""
        labels = self._held[self._index(name)].labels
        assert labels is not None
        return labels.annotated.aligned(box)

    def prepare(self, name: str, target: TargetDHW, box: Box | None = None) -> Relabelling:
        """New labels of a volume, of this cohort or not; on any thread, one at a time for each volume.

        Parameters
        ----------
        target : of the whole volume, or of the box
        box : as `affected` gives it
        """
        if box is None:
            d, h, w = target.shape
            padding = Padding.to_fit((d, h, w), self.patch)
            values = np.ascontiguousarray(padding.pad(np.asarray(target, np.int16), IGNORE))
            everything = tuple(slice(0, n) for n in values.shape)
            annotated = AnnotatedVoxels.of(target, self.patch)
            return Relabelling(
                name, values, everything, annotated, self._new_foreground(values, everything, None)
            )
        held = self._held[self._index(name)]
        assert held.labels is not None
        place = tuple(slice(a + i.start, b + i.start) for (a, b), i in zip(box, held.inside, strict=True))
        values = np.ascontiguousarray(target, np.int16)
        annotated = held.labels.annotated.with_part(target, box)
        return Relabelling(name, values, place, annotated, self._new_foreground(values, place, held.labels))

    def relabel(self, change: Relabelling) -> None:
        """Put prepared labels of one of its volumes into place."""
        index = self._index(change.name)
        self._held[index] = self._labelled(self._held[index], change)

    def target(self, name: str) -> TargetDHW:
        """The targets of one of its volumes, (D, H, W), as they are."""
        held = self._held[self._index(name)]
        assert held.labels is not None
        return np.asarray(held.labels.target[held.inside].cpu().numpy())

    def is_complete(self, name: str) -> bool:
        """Whether every voxel of a volume is annotated."""
        labels = self._held[self._index(name)].labels
        return labels is not None and labels.annotated.is_complete

    def silence(self, name: str) -> None:
        """Take all labels from one of its volumes, which stays."""
        index = self._index(name)
        held = self._held[index]
        assert held.labels is not None
        annotated = replace(held.labels.annotated, listed={}, counts={})
        target = torch.full_like(held.labels.target, IGNORE)
        self._held[index] = replace(held, labels=_Labels(target, annotated, None, owned=True))

    def share(self, name: str) -> _Held:
        """A volume for another cohort of the same patch to `admit`, without its labels."""
        return replace(self._held[self._index(name)], labels=None)

    def release(self, name: str) -> None:
        """Let a volume go."""
        del self._held[self._index(name)]

    def admit(self, held: _Held, order: Sequence[str], change: Relabelling | None = None) -> None:
        """Take a volume that another cohort shares, with its labels if there are any.

        Parameters
        ----------
        order : names of all volumes; that of draws follows it
        """
        self._held.append(held if change is None else self._labelled(held, change))
        self._held.sort(key=lambda one: order.index(one.name))

    @property
    def is_streamed(self) -> bool:
        """Whether some of its images are read from disk."""
        return any(isinstance(held.image, StreamedTensor) for held in self._held)

    def fetch(self, draws: Sequence[PatchDraw]) -> None:
        """Read what these patches need of streamed images; on any thread."""
        for index, corner in draws:
            held = self._held[index]
            if isinstance(held.image, StreamedTensor):
                with naming(held.name):
                    held.image.fetch(_window(corner, self.patch))

    def draw(self, rng: np.random.Generator, count: int) -> list[PatchDraw]:
        """Draw `count` patches as (volume, corner)."""
        return [self._draw_one(rng) for _ in range(count)]

    def corner_in_volume(self, draw: PatchDraw) -> ShapeDHW:
        """Where a patch begins in its volume; below 0 where it begins in the padding."""
        index, corner = draw
        return _shape(c - s.start for c, s in zip(corner, self._held[index].inside, strict=True))

    def images(self, draws: Sequence[PatchDraw]) -> Tensor:
        """Normalised patches, (B, 1, D, H, W), float32."""
        images = self._stacked([self._image(*draw) for draw in draws])
        if not any(self._held[index].is_padded for index, _ in draws):
            return images
        valid_B1DHW = self.validity(draws).unsqueeze(1)
        lowest = images.masked_fill(~valid_B1DHW, torch.inf).amin((1, 2, 3, 4), keepdim=True)
        return torch.where(valid_B1DHW, images, lowest)

    def targets(self, draws: Sequence[PatchDraw]) -> Tensor:
        """Targets of the patches, (B, D, H, W), int16."""
        cut = []
        for index, corner in draws:
            labels = self._held[index].labels
            assert labels is not None
            cut.append(labels.target[_window(corner, self.patch)])
        return torch.stack(cut)

    def annotated(self, name: str, corner: ShapeDHW) -> Tensor:
        """True where a voxel of the patch at a corner of one of its volumes is annotated, (D, H, W)."""
        labels = self._held[self._index(name)].labels
        assert labels is not None
        return labels.target[_window(corner, self.patch)] != IGNORE

    def validity(self, draws: Sequence[PatchDraw]) -> Tensor:
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
        with naming(held.name):
            x = held.image[_window(corner, self.patch)].to(torch.float32, copy=n is not None)
        if n is not None:
            x.clamp_(n.low, n.high).sub_(n.shift).mul_(n.scale)
        return x.unsqueeze(0)

    def _stacked(self, patches: list[Tensor]) -> Tensor:
        """As `torch.stack`, whose threads would wait for those that decode the next patches, and take their cores meanwhile."""
        if self.device.type == "cpu" and self.is_streamed:
            return torch.from_numpy(np.stack([patch.numpy() for patch in patches]))
        return torch.stack(patches)

    def _draw_one(self, rng: np.random.Generator) -> PatchDraw:
        """The same numbers are drawn whatever the volume, so that streams stay paired."""
        u_volume, u_kind, u_voxel, *u_corner = rng.random(6)
        index = int(u_volume * len(self._held))
        held = self._held[index]
        free = [n - p for n, p in zip(held.image.shape, self.patch, strict=True)]
        voxel = self._centre(held, u_kind, u_voxel)
        if voxel is None:
            return index, _shape(int(u * (f + 1)) for u, f in zip(u_corner, free, strict=True))
        # The chosen voxel lies anywhere in the patch, as far as the border allows.
        corner = (v - int(u * p) for v, u, p in zip(voxel, u_corner, self.patch, strict=True))
        return index, _shape(min(max(c, 0), f) for c, f in zip(corner, free, strict=True))

    def _centre(self, held: _Held, u_kind: float, u_voxel: float) -> ShapeDHW | None:
        """The voxel of the padded volume that a patch is to hold; None: any patch will do."""
        labels = held.labels
        if labels is None:
            return None
        if u_kind < self.foreground and labels.foreground is not None and len(labels.foreground):
            return _shape(labels.foreground[int(u_voxel * len(labels.foreground))].tolist())
        if labels.annotated.is_complete or not len(labels.annotated):
            return None
        return _shape(v + s.start for v, s in zip(labels.annotated.pick(u_voxel), held.inside, strict=True))

    def _hold(self, case: Case) -> _Held:
        d, h, w = case.image.shape
        padding = Padding.to_fit((d, h, w), self.patch)
        left = case.normalisation if fits_float32(case.image.dtype) else None
        holdable = partial(holdable_values, case.normalisation)
        if isinstance(case.image, StreamedArray):
            if left is not None and self.device.type == "cpu":
                holdable, left = partial(normalised_values, left), None
            image: Tensor | StreamedTensor = StreamedTensor(case.image, padding, holdable, self.device)
        else:
            stored = padding.pad(holdable(case.image))
            image = torch.from_numpy(np.ascontiguousarray(stored)).to(self.device)
        held = _Held(case.name, image, left, padding.inside((d, h, w)), None)
        return held if case.target is None else self._labelled(held, self.prepare(case.name, case.target))

    def _labelled(self, held: _Held, change: Relabelling) -> _Held:
        values = torch.from_numpy(change.values).to(self.device)
        if held.labels is None or values.shape == held.labels.target.shape:
            target, owned = values, values.device.type != "cpu"
        else:
            target, owned = held.labels.target if held.labels.owned else held.labels.target.clone(), True
            target[change.box] = values
        return replace(held, labels=_Labels(target, change.annotated, change.foreground, owned))

    def _index(self, name: str) -> int:
        return next(index for index, held in enumerate(self._held) if held.name == name)

    def _new_foreground(
        self, values: TargetDHW, box: tuple[slice, ...], before: _Labels | None
    ) -> Tensor | None:
        """Foreground voxels in the order of the volume; those outside the box stay."""
        if not self.foreground:
            return None
        inside = torch.from_numpy(np.argwhere(values > 0) + [s.start for s in box])
        if before is None or before.foreground is None:
            return inside
        low = torch.tensor([s.start for s in box])
        high = torch.tensor([s.stop for s in box])
        kept = before.foreground[~((before.foreground >= low) & (before.foreground < high)).all(1)]
        joined = torch.cat([kept, inside]).numpy()
        return torch.from_numpy(joined[np.lexsort(joined.T[::-1])])


def _window(corner: ShapeDHW, patch: ShapeDHW) -> tuple[slice, ...]:
    return tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))


def _shape(values: Iterable[int]) -> ShapeDHW:
    d, h, w = values
    return d, h, w
