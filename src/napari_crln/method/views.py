"""Weak and strong views: drawn first, applied after (docs/concepts/method.md, recipe).

A draw holds everything random and is plain data, so that a view can be replayed, tested and inverted;
applying one is pure. Geometry moves images with their discrete companions (labels, confidence, validity)
by the same draw; voxels that padding or shrinking invented become IGNORE, 0 or False.
In-plane means H-W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_crln import config
from napari_crln.types import IGNORE


class Streams(Protocol):
    """Random streams of one step (`learner.Randomness`)."""

    def numpy(self, purpose: str) -> np.random.Generator:
        """A generator that is a function of seed, step and purpose alone."""


_AXES = {"D": 0, "H": 1, "W": 2}


@dataclass(frozen=True)
class Turn:
    """Rotation by `quarters`·90° in-plane, then flips of D, H, W."""

    quarters: int = 0
    flips: tuple[bool, bool, bool] = (False, False, False)


@dataclass(frozen=True)
class WeakDraw:
    """Weak view of one sample."""

    turn: Turn
    brightness: float


@dataclass(frozen=True)
class StrongDraw:
    """Strong view of one sample, on top of its weak view."""

    #: In-plane zoom about the centre; < 1 shrinks and pads.
    scale: float
    #: In-plane box (h0, h1, w0, w1) taken from the next sample of the batch; none: no CutMix.
    box: tuple[int, int, int, int] | None
    brightness: float
    #: Seed of the Gaussian noise; none: no noise.
    noise_seed: int | None
    turn: Turn


def draw_weak(
    rng: np.random.Generator, batch: int, plane: tuple[int, int], settings: config.Views
) -> list[WeakDraw]:
    """Draw weak views for `batch` samples whose plane has (H, W) voxels."""
    return [
        WeakDraw(_draw_turn(rng, plane, settings), float(rng.uniform(*settings.weak_brightness)))
        for _ in range(batch)
    ]


def draw_strong(
    rng: np.random.Generator, batch: int, plane: tuple[int, int], settings: config.Views
) -> list[StrongDraw]:
    """Draw strong views for `batch` samples; the same numbers are drawn whatever their outcome."""
    return [_draw_one_strong(rng, plane, settings, partner=batch > 1) for _ in range(batch)]


def weak_draws(
    random: Streams, labelled: int, unlabelled: int, plane: tuple[int, int], settings: config.Views
) -> tuple[list[WeakDraw], list[WeakDraw]]:
    """A step's weak views of both batches, from its random streams; asked again, they are the same."""
    rng = random.numpy("weak views")
    return draw_weak(rng, labelled, plane, settings), draw_weak(rng, unlabelled, plane, settings)


def strong_draws(
    random: Streams, unlabelled: int, plane: tuple[int, int], settings: config.Views
) -> list[StrongDraw]:
    """A step's strong views, from its random streams; asked again, they are the same."""
    return draw_strong(random.numpy("strong views"), unlabelled, plane, settings)


def apply_weak(
    draws: Sequence[WeakDraw], image_B1DHW: Tensor, discrete_BDHW: Tensor, settings: config.Views
) -> tuple[Tensor, Tensor]:
    """Weak views of images (B, 1, D, H, W) and of their labels or validity (B, D, H, W)."""
    image = rescale_patches(image_B1DHW) if settings.minmax else image_B1DHW
    images = [_turn(x * d.brightness, d.turn) for x, d in zip(image, draws, strict=True)]
    discrete = [_turn(y, d.turn) for y, d in zip(discrete_BDHW, draws, strict=True)]
    return torch.stack(images), torch.stack(discrete)


def apply_strong(
    draws: Sequence[StrongDraw],
    image_B1DHW: Tensor,
    label_BDHW: Tensor,
    confidence_BDHW: Tensor,
    settings: config.Views,
) -> tuple[Tensor, Tensor, Tensor]:
    """Strong views of weakly viewed images, with their pseudo-labels and confidences.

    Zoom → CutMix → brightness → clipped noise → turn. Labels and confidences follow the geometry by nearest
    voxel; where the zoom invented a voxel the image is 0, the label IGNORE and the confidence 0.
    """
    zoomed = [
        _zoom(x, y, c, d.scale)
        for x, y, c, d in zip(image_B1DHW, label_BDHW, confidence_BDHW, draws, strict=True)
    ]
    viewed = []
    for i, draw in enumerate(draws):
        x, y, c = _cutmix(zoomed[i], zoomed[(i + 1) % len(zoomed)], draw.box)
        x = _noise(x * draw.brightness, draw.noise_seed, settings.noise_sigma)
        viewed.append((_turn(x, draw.turn), _turn(y, draw.turn), _turn(c, draw.turn)))
    images, labels, confidences = zip(*viewed, strict=True)
    return torch.stack(images), torch.stack(labels), torch.stack(confidences)


def rescale_patches(image_B1DHW: Tensor) -> Tensor:
    """Each patch to 0-1 by its own minimum and maximum; a constant patch becomes 0."""
    low = image_B1DHW.amin((1, 2, 3, 4), keepdim=True)
    high = image_B1DHW.amax((1, 2, 3, 4), keepdim=True)
    return (image_B1DHW - low) / (high - low).clamp(min=1e-6)


def _draw_turn(rng: np.random.Generator, plane: tuple[int, int], settings: config.Views) -> Turn:
    quarters = int(rng.integers(4))
    coins = rng.random(3) < 0.5
    if not settings.rot90:
        quarters = 0
    elif plane[0] != plane[1]:
        quarters = 2 * (quarters // 2)
    allowed = [axis in {_AXES[name] for name in settings.flip} for axis in range(3)]
    flips = tuple(bool(coin and ok) for coin, ok in zip(coins, allowed, strict=True))
    return Turn(quarters, (flips[0], flips[1], flips[2]))


def _draw_one_strong(
    rng: np.random.Generator, plane: tuple[int, int], settings: config.Views, partner: bool
) -> StrongDraw:
    scale = float(rng.uniform(*settings.strong_scale))
    box = _draw_box(rng, plane, settings.cutmix_beta)
    mixed = rng.random() < settings.cutmix and partner
    brightness = float(rng.uniform(*settings.strong_brightness))
    bright = rng.random() < settings.strong_brightness_p
    seed = int(rng.integers(2**31))
    noisy = rng.random() < settings.noise_p and settings.noise_sigma > 0
    turn = _draw_turn(rng, plane, settings)
    turned = rng.random() < settings.strong_flip_p
    return StrongDraw(
        scale,
        box if mixed else None,
        brightness if bright else 1.0,
        seed if noisy else None,
        turn if turned else Turn(),
    )


def _draw_box(rng: np.random.Generator, plane: tuple[int, int], beta: float) -> tuple[int, int, int, int]:
    """A box of share 1 - λ of the plane, λ ~ β(a, a), wholly inside (Yun et al. 2019)."""
    side = float(np.sqrt(1.0 - rng.beta(beta, beta)))
    height, width = (max(1, round(side * n)) for n in plane)
    h0 = int(rng.integers(plane[0] - height + 1))
    w0 = int(rng.integers(plane[1] - width + 1))
    return h0, h0 + height, w0, w0 + width


def _turn(x: Tensor, turn: Turn) -> Tensor:
    if turn.quarters:
        x = torch.rot90(x, turn.quarters, (-2, -1))
    axes = [axis - 3 for axis in range(3) if turn.flips[axis]]
    return x.flip(axes) if axes else x


def _zoom(x_1DHW: Tensor, label: Tensor, confidence: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scale the plane about its centre, then crop or pad to its former size."""
    plane = (x_1DHW.shape[-2], x_1DHW.shape[-1])
    size = [max(1, round(scale * n)) for n in plane]
    if tuple(size) == plane:
        return x_1DHW, label, confidence
    x = F.interpolate(x_1DHW, size=size, mode="bilinear", align_corners=False)
    both = torch.stack([label.to(confidence.dtype), confidence])
    y, c = F.interpolate(both, size=size, mode="nearest-exact")
    return (
        _fit_plane(x, plane, 0.0),
        _fit_plane(y, plane, float(IGNORE)).round().to(label.dtype),
        _fit_plane(c, plane, 0.0),
    )


def _fit_plane(x: Tensor, plane: tuple[int, int], fill: float) -> Tensor:
    """Centre crop (negative padding) or pad the last two axes to `plane`."""
    padding: list[int] = []
    for have, want in ((x.shape[-1], plane[1]), (x.shape[-2], plane[0])):
        before = (want - have) // 2
        padding += [before, want - have - before]
    return F.pad(x, padding, value=fill)


def _cutmix(
    mine: tuple[Tensor, Tensor, Tensor],
    other: tuple[Tensor, Tensor, Tensor],
    box: tuple[int, int, int, int] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if box is None:
        return mine
    h0, h1, w0, w1 = box
    mixed = tuple(t.clone() for t in mine)
    for target, source in zip(mixed, other, strict=True):
        target[..., h0:h1, w0:w1] = source[..., h0:h1, w0:w1]
    return mixed[0], mixed[1], mixed[2]


def _noise(x: Tensor, seed: int | None, sigma: float) -> Tensor:
    """Add Gaussian noise clipped at 2 σ, drawn on the device from the seed."""
    if seed is None:
        return x
    generator = torch.Generator(x.device).manual_seed(seed)
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype) * sigma
    return x + noise.clamp(-2 * sigma, 2 * sigma)
