"""The grid of a stored volume: how many voxels, and where each lies in the patient.

A `Grid` is always that of the stored, RAS+ array. Two grids are the same when no corner of the volume moves
by more than `TOLERANCE` of the smallest spacing: a bound on what a user would see, whatever the units,
rotation or distance from the origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from napari_crln.errors import GridMismatch
from napari_crln.types import Affine, ShapeDHW, SpacingDHW

#: Largest distance between corners of two grids that count as the same, in voxels of the smallest spacing.
TOLERANCE = 0.05


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape (D, H, W) and affine, voxel (x, y, z) to millimetres, of a stored RAS+ volume.

    Raises
    ------
    GridMismatch
        If the shape is not three positive sizes, or the affine is not finite, is singular, or has no spacing.
    """

    shape: ShapeDHW
    affine: Affine

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        check_shape(tuple(self.shape))
        check_affine(affine)
        affine.setflags(write=False)
        d, h, w = (int(size) for size in self.shape)
        object.__setattr__(self, "shape", (d, h, w))
        object.__setattr__(self, "affine", affine)

    @classmethod
    def from_spacing(cls, shape: ShapeDHW, spacing: SpacingDHW = (1.0, 1.0, 1.0)) -> Grid:
        """A grid without rotation, its first voxel at the origin; spacing in mm along D, H, W."""
        return cls(shape, np.diag([*reversed(spacing), 1.0]))

    @property
    def spacing(self) -> SpacingDHW:
        """Millimetres a voxel along D, H, W."""
        x, y, z = (float(norm) for norm in np.linalg.norm(self.affine[:3, :3], axis=0))
        return z, y, x

    def corners(self) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """World positions of the eight outermost voxel centres, (8, 3), mm."""
        d, h, w = self.shape
        voxels = np.array([(*corner, 1.0) for corner in product((0, w - 1), (0, h - 1), (0, d - 1))])
        return np.asarray((voxels @ self.affine.T)[:, :3], dtype=np.float64)

    def difference(self, other: Grid) -> str | None:
        """What differs between two grids, with both values, for a person; None if they are the same."""
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape} voxels (D, H, W)"
        moved = float(np.abs(self.corners() - other.corners()).max())
        allowed = TOLERANCE * min(*self.spacing, *other.spacing)
        if moved <= allowed and self._same_steps(other):
            return None
        return (
            f"affine {describe(self.affine)} against {describe(other.affine)} "
            f"(corners up to {moved:.4g} mm apart)"
        )

    def _same_steps(self, other: Grid) -> bool:
        """Whether the voxel steps agree: on an axis of one voxel the corners do not tell."""
        steps = np.abs(self.affine[:3, :3] - other.affine[:3, :3]).max()
        return bool(steps <= TOLERANCE * min(*self.spacing, *other.spacing))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self.shape == other.shape and bool(np.array_equal(self.affine, other.affine))

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))


def check_shape(shape: tuple[int, ...], where: str | Path | None = None) -> None:
    """Refuse a shape that is not three positive sizes."""
    if len(shape) != 3 or min(shape) < 1:
        raise GridMismatch(
            f"shape {shape}", "a volume has three axes of at least one voxel each", "Give a 3D volume", where
        )


def check_affine(affine: Affine, where: str | Path | None = None) -> None:
    """Refuse an affine that is not finite, has a zero spacing, or squashes the volume flat."""
    if affine.shape != (4, 4) or not np.array_equal(affine[3], (0, 0, 0, 1)):
        raise GridMismatch(
            f"affine {affine.tolist()}", "an affine is 4 × 4 and ends in 0 0 0 1", "Mend the header", where
        )
    if not np.isfinite(affine).all():
        raise GridMismatch(
            f"affine {describe(affine)}", "an affine holds finite numbers", "Mend the header's affine", where
        )
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not (spacing > 0).all():
        raise GridMismatch(
            f"spacing {tuple(spacing.tolist())} mm along x, y, z",
            "every spacing is above zero",
            "Set the voxel size in the file's header",
            where,
        )
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-6:
        raise GridMismatch(
            f"affine {describe(affine)}",
            "its three axes point in three independent directions",
            "Mend the header's affine",
            where,
        )


def describe(affine: Affine) -> str:
    """The upper three rows of an affine on one line."""
    return "[" + "; ".join(" ".join(f"{value:.6g}" for value in row) for row in affine[:3]) + "]"
