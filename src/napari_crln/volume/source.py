"""Where a volume came from: all that is needed to write a result back on the user's own grid.

The store keeps every volume in RAS+; the file may have had any orientation. A `Source` keeps the file's name,
its header byte for byte (qform and sform with their codes, units, byte order) and the axis permutation and
flips that were applied, so that a written file has the identical affine.
"""

from __future__ import annotations

import base64
import io
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from napari_crln.types import Affine
from napari_crln.volume.geometry import Grid

#: Rows: for each file axis, the stored axis (x, y, z) that it becomes and +1 or -1 for its direction.
Orientation = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
_UNITS = {1: 1e3, 2: 1.0, 3: 1e-3}  # NIfTI's codes for metre, millimetre, micrometre, in mm
_CODES = {"mm": 2, "micron": 3}


class Source(BaseModel):
    """The file behind a volume, or a made-up NIfTI-1 header where it came as an array."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="file name without folder, with extension")
    shape: tuple[int, int, int] = Field(description="voxels along the file's first three axes")
    affine: tuple[tuple[float, float, float, float], ...] = Field(description="of the file, 4 × 4")
    header: str = Field(description="NIfTI header, base64")
    orientation: Orientation
    dtype: str = Field(description="of the file's voxels, NumPy's name, native byte order")

    @field_validator("name")
    @classmethod
    def _is_no_path(cls, name: str) -> str:
        """Results are written under this name into a folder of the user's choice, and nowhere else."""
        if name in ("", ".", "..") or set(name) & set("/\\\0"):
            raise ValueError(f"{name!r} is no plain file name")
        return name

    @field_validator("orientation")
    @classmethod
    def _is_a_turn(cls, orientation: Orientation) -> Orientation:
        axes, flips = zip(*orientation, strict=True)
        if sorted(axes) != [0, 1, 2] or not set(flips) <= {1, -1}:
            raise ValueError(f"{orientation} turns no axes")
        return orientation

    @classmethod
    def of(cls, name: str, header: nib.Nifti1Header, affine: Affine, shape: tuple[int, int, int]) -> Source:
        """Record a file's header as it is."""
        rows = [(int(axis), int(flip)) for axis, flip in io_orientation(affine)]
        return cls(
            name=name,
            shape=shape,
            affine=tuple(tuple(float(v) for v in row) for row in affine),
            header=base64.b64encode(header.binaryblock).decode(),
            orientation=(rows[0], rows[1], rows[2]),
            dtype=header.get_data_dtype().newbyteorder("=").name,
        )

    @classmethod
    def made_up(
        cls, name: str, grid: Grid, dtype: np.dtype[Any], unit: Literal["mm", "micron"] = "mm"
    ) -> Source:
        """A NIfTI-1 header in scanner coordinates, of that unit, for a volume that came as an array (D, H, W)."""
        affine = grid.affine.copy()
        affine[:3] /= _UNITS[_CODES[unit]]
        header = nib.Nifti1Header()
        header.set_data_dtype(np.float32 if dtype == np.float16 else dtype)
        header.set_data_shape(grid.shape[::-1])
        header.set_sform(affine, code=1)
        header.set_qform(affine, code=1, strip_shears=True)
        header.set_xyzt_units(unit)
        return cls.of(f"{name}.nii.gz", header, header.get_sform(), grid.shape[::-1])

    @property
    def grid(self) -> Grid:
        """Of the stored array: RAS+, so as close to the world's axes as permutation and flips allow."""
        affine = self._millimetres @ inv_ornt_aff(np.array(self.orientation), self.shape)
        x, y, z = (self.shape[axis] for axis in np.argsort([axis for axis, _ in self.orientation]))
        return Grid((z, y, x), affine)

    @property
    def _millimetres(self) -> Affine:
        """The file's affine in millimetres; a file that names no unit means them."""
        factor = _UNITS.get(int(self.read_header()["xyzt_units"]) & 7, 1.0)
        return np.asarray(np.diag([factor, factor, factor, 1.0]) @ np.array(self.affine))

    def to_stored(self, file_xyz: NDArray[Any]) -> NDArray[Any]:
        """File axes to stored (D, H, W); a view."""
        return np.asarray(apply_orientation(file_xyz, np.array(self.orientation))).T

    def to_file(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Stored (D, H, W) to the file's axes: the exact inverse of `to_stored`; a view."""
        axes = [axis for axis, _ in self.orientation]
        turned = np.transpose(stored.T, axes)
        return turned[tuple(slice(None, None, flip) for _, flip in self.orientation)]

    def read_header(self) -> nib.Nifti1Header:
        """The header as it was in the file; a new copy."""
        block = base64.b64decode(self.header)
        kind = nib.Nifti2Header if len(block) == 540 else nib.Nifti1Header
        header: nib.Nifti1Header = kind.from_fileobj(io.BytesIO(block), check=False)
        return header
