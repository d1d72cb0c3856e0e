"""Synthetic low-contrast organs: a cohort with known truth for the demo, the sample data and the tests.

A phantom is a trunk of soft tissue with three structures: `body`, a bent bean with a hilum; `lobe`, a cap on
its surface at a varying place; and `vessel`, a tube that tapers, curves through the hilum and sends a branch
along the body. Around them lie decoys: blobs and a tube of the very same intensities, told apart only by shape
and place. Pose, size, bend and a smooth warp vary; so do the levels of the tissues, a multiplicative
bias field, the borders' softness (partial volume) and two kinds of noise. The contrast of neighbouring tissues is
one to two standard deviations of the noise, so that no threshold segments them (a test holds that).

Geometry is computed in coordinates of -1 … 1 along each axis, whatever the shape, so that a cohort of
another size holds the same anatomy. Draws come from one generator per aspect, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from napari_crln.types import ImageDHW, LabelDHW, ShapeDHW, SpacingDHW

#: Foreground classes; label k + 1 is CLASSES[k], 0 is background.
CLASSES = ("body", "lobe", "vessel")
DEFAULT_SHAPE: ShapeDHW = (48, 64, 64)
#: Nominal voxel size in millimetres of a phantom of the default shape.
SPACING: SpacingDHW = (1.5, 1.0, 1.0)

_Float: TypeAlias = NDArray[np.float32]
#: Mean levels, 0-1, of air, tissue, body, lobe, vessel.
_LEVELS = np.array((0.06, 0.34, 0.47, 0.62, 0.80))
_LEVEL_JITTER = 0.02
_WHITE_NOISE = 0.08
_CORRELATED_NOISE = 0.03


class Phantom(NamedTuple):
    """One member of a cohort: name, image uint8 (D, H, W), labels uint8 (D, H, W)."""

    name: str
    image: ImageDHW
    labels: LabelDHW


def phantom_cohort(
    count: int, seed: int = 0, shape: ShapeDHW = DEFAULT_SHAPE, noise: float = 1.0
) -> Iterator[Phantom]:
    """Yield `count` phantoms, named `phantom_000` on; a longer cohort of the same seed begins with the shorter."""
    for index in range(count):
        yield Phantom(f"phantom_{index:03d}", *make_phantom((seed, index), shape, noise))


def make_phantom(
    seed: int | Sequence[int], shape: ShapeDHW = DEFAULT_SHAPE, noise: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Make one image with its labels; equal seeds give equal phantoms.

    Parameters
    ----------
    seed : a non-negative integer, or several
    shape : voxels along D, H, W, each at least 16
    noise : factor of both kinds of noise; 0 gives the clean image

    Returns
    -------
    image, labels : uint8 (D, H, W); labels are 0 background, 1 body, 2 lobe, 3 vessel, all present.
    """
    if min(shape) < 16:
        raise ValueError(f"phantom of shape {shape}; each side needs 16 voxels or more")
    pose, anatomy, surroundings, scanner = np.random.default_rng(seed).spawn(4)
    points = _posed(_warped(_grid(shape), pose), pose)
    scale = min(shape) / 2  # voxels per unit of length
    organs = _organs(points, anatomy)
    decoys = _decoys(points, np.minimum.reduce(organs), surroundings)
    trunk = _ellipsoid(_grid(shape), np.zeros(3), np.array((1.3, 0.93, 0.96)))
    layers = [trunk, *decoys, *organs]
    levels = _levels(len(decoys), surroundings, scanner)
    softness = scanner.uniform(0.5, 0.9)
    clean = _blend([_occupancy(layer, scale, softness) for layer in layers], levels)
    return _acquired(clean, noise, scanner), _labelled(organs)


# --- geometry: signed distances (negative inside) in units of half the volume, points of shape (3, D, H, W)


def _grid(shape: ShapeDHW) -> _Float:
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _warped(points: _Float, rng: np.random.Generator) -> _Float:
    """Displace by a smooth random vector field."""
    return points + np.stack([_smooth_field(points.shape[1:], 4, 0.06, rng) for _ in range(3)])


def _smooth_field(shape: tuple[int, ...], knots: int, sigma: float, rng: np.random.Generator) -> _Float:
    """Gaussian-weighted means of `knots`³ normal values on a regular grid."""
    field = rng.normal(0, sigma, (knots,) * 3)
    at = np.linspace(-1, 1, knots)
    for n in shape:  # each pass consumes the first axis and appends the axis of n voxels: the order is kept
        weights = np.exp(-0.5 * ((np.linspace(-1, 1, n)[:, None] - at) * (knots - 1) / 1.2) ** 2)
        field = np.tensordot(field, weights / weights.sum(1, keepdims=True), axes=(0, 1))
    return np.asarray(field, dtype=np.float32)


def _posed(points: _Float, rng: np.random.Generator) -> _Float:
    """Rotate by some 10°, scale by some 8 %, shift by some 5 %."""
    angles = rng.normal(0, np.deg2rad(9), 3)
    matrix = _rotation(angles) * rng.normal(1.0, 0.08, 3).clip(0.8, 1.2)[:, None]
    shift = rng.normal(0, 0.05, 3)
    moved = np.tensordot(matrix, points, axes=1) + shift[:, None, None, None]
    return np.asarray(moved, dtype=np.float32)


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        a, b = [i for i in range(3) if i != axis]
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _ellipsoid(points: _Float, centre: NDArray[np.float64], radii: NDArray[np.float64]) -> _Float:
    """Approximate distance: exact on the surface, first order near it."""
    q = (points - _column(centre)) / _column(radii)
    length = np.sqrt((q**2).sum(0)) + 1e-6
    gradient = np.sqrt(((q / _column(radii)) ** 2).sum(0)) / length + 1e-6
    return np.asarray((length - 1) / gradient, dtype=np.float32)


def _tube(points: _Float, line: NDArray[np.float64], radii: NDArray[np.float64]) -> _Float:
    """Union of balls along `line` (n, 3): close enough together to read as a tube."""
    distance = np.full(points.shape[1:], np.inf, np.float32)
    for centre, radius in zip(line, radii, strict=True):
        offset = points - _column(centre)
        np.minimum(distance, np.sqrt((offset**2).sum(0)) - np.float32(radius), out=distance)
    return distance


def _column(vector: NDArray[np.float64]) -> _Float:
    return vector.astype(np.float32)[:, None, None, None]


def _organs(points: _Float, rng: np.random.Generator) -> list[_Float]:
    """Distances to body, lobe and vessel; a later one lies over the earlier ones."""
    bent = points.copy()
    bent[1] += np.float32(rng.uniform(0.15, 0.45)) * points[0] ** 2
    centre, radii = np.array((0.0, -0.05, -0.15)), rng.normal((0.62, 0.54, 0.48), 0.035)
    hilum = centre + np.array((rng.normal(0, 0.06), rng.normal(0.02, 0.05), radii[2] * 1.05))
    body = np.maximum(
        _ellipsoid(bent, centre, radii), -_ellipsoid(points, hilum, np.array((0.24, 0.22, 0.24)))
    )
    return [body, _lobe(bent, centre, radii, rng), _vessel(points, hilum, rng)]


def _lobe(
    points: _Float, centre: NDArray[np.float64], radii: NDArray[np.float64], rng: np.random.Generator
) -> _Float:
    """A cap on the far side of the body, up to 30° away from its pole."""
    direction = np.array((rng.normal(0.35, 0.25), -0.85, rng.normal(-0.2, 0.25)))
    direction /= np.linalg.norm(direction)
    return _ellipsoid(points, centre + 0.75 * radii * direction, rng.normal((0.36, 0.30, 0.36), 0.03))


def _vessel(points: _Float, hilum: NDArray[np.float64], rng: np.random.Generator) -> _Float:
    t = np.linspace(-0.85, 0.85, 17)
    sway, phase = rng.uniform(0.06, 0.16), rng.uniform(0, 2 * np.pi)
    side = hilum[2] + 0.12
    trunk = np.stack([t, hilum[1] + sway * np.sin(2.2 * t + phase), side + 0.08 * np.cos(2 * t)], axis=1)
    s = np.linspace(0, 1, 6)[:, None]
    start = trunk[rng.integers(7, 10)]
    end = hilum + np.array((rng.normal(0, 0.1), rng.normal(0, 0.08), -0.38))
    width = rng.uniform(0.16, 0.20)
    return np.minimum(
        _tube(points, trunk, width * np.linspace(1.1, 0.8, len(t))),
        _tube(points, start + s * (end - start), width * np.linspace(0.8, 0.65, len(s))),
    )


def _decoys(points: _Float, organs: _Float, rng: np.random.Generator) -> list[_Float]:
    """Blobs and a tube elsewhere in the trunk, cut away where they would touch the organs."""
    blobs = []
    for _ in range(int(rng.integers(2, 5))):
        centre = rng.uniform((-0.8, -0.75, -0.8), (0.8, 0.75, 0.8))
        blobs.append(_ellipsoid(points, centre, rng.uniform(0.12, 0.24, 3)))
    t = np.linspace(-0.9, 0.9, 17)
    line = np.stack([t, rng.uniform(0.5, 0.65) + 0.08 * np.sin(3 * t), np.full_like(t, -0.3)], axis=1)
    tube = _tube(points, line, np.full(len(t), rng.uniform(0.1, 0.14)))
    return [np.maximum(decoy, 0.08 - organs) for decoy in (*blobs, tube)]


# --- image


def _levels(decoys: int, rng: np.random.Generator, scanner: np.random.Generator) -> NDArray[np.float64]:
    """Level of air, trunk, each decoy (those of an organ; the last, a tube, the vessel's), body, lobe, vessel."""
    levels = _LEVELS + scanner.normal(0, _LEVEL_JITTER, len(_LEVELS))
    picked = [*rng.choice(levels[2:], decoys - 1), levels[4]]
    return np.array((*levels[:2], *picked, *levels[2:]))


def _occupancy(distance: _Float, scale: float, softness: float) -> _Float:
    """Share of a voxel that is inside; `softness` in voxels."""
    steep = np.clip(distance * np.float32(scale / softness), -30, 30)
    return np.asarray(1 / (1 + np.exp(steep)), dtype=np.float32)


def _blend(occupancies: list[_Float], levels: NDArray[np.float64]) -> _Float:
    """Paint the layers over air, bottom to top."""
    image = np.full(occupancies[0].shape, levels[0], np.float32)
    for occupancy, level in zip(occupancies, levels[1:], strict=True):
        image += occupancy * (np.float32(level) - image)
    return image


def _acquired(clean: _Float, factor: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What a scanner makes of it: bias field, correlated and white noise, gain; 8 bits."""
    bias = _smooth_field(clean.shape, 3, 0.09, rng)
    texture = gaussian_filter(rng.standard_normal(clean.shape, np.float32), 1.2)
    noise = _CORRELATED_NOISE * texture / texture.std()
    noise += _WHITE_NOISE * rng.standard_normal(clean.shape, np.float32)
    image = rng.normal(1, 0.06) * clean * np.exp(bias) + np.float32(factor) * noise
    return np.asarray(np.clip(255 * image / 1.1, 0, 255).round(), dtype=np.uint8)


def _labelled(organs: list[_Float]) -> NDArray[np.uint8]:
    labels = np.zeros(organs[0].shape, np.uint8)
    for value, distance in enumerate(organs, start=1):
        labels[distance < 0] = value
    return labels
