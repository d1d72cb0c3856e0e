"""NIfTI in and out.

In: any orientation, real dtype, byte order and scaling; voxels keep their stored dtype (the scaling is
returned beside them) and are turned to RAS+, (D, H, W). Out: on the source's own grid, with its header, so that
affine, qform and sform are bit-identical.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from napari_crln.durable import replacing
from napari_crln.errors import GridMismatch, InvalidIntensity, InvalidLabel, ProjectError
from napari_crln.types import AnyPath, ImageDHW, LabelDHW
from napari_crln.volume.geometry import Grid, check_affine
from napari_crln.volume.intensity import Scaling
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.nifti_bytes import read_voxels
from napari_crln.volume.source import Source

_LABEL_INTENT = 1002
_XFORM_CODES = range(6)  # unknown, scanner, aligned, Talairach, MNI 152, another template
_ROUNDING = 1e-3  # of an id, where a label's scaling left it a little off an integer


class Loaded(NamedTuple):
    """A NIfTI file as a project stores it."""

    voxels: ImageDHW
    grid: Grid
    scaling: Scaling
    source: Source


def read_image(path: AnyPath) -> Loaded:
    """Read an image: stored dtype, RAS+ (D, H, W), with the file's scaling (slope, intercept) beside it.

    Raises
    ------
    UnreadableFile
        If the file is missing, truncated, fails gzip's CRC, or is no NIfTI.
    InvalidIntensity
        If it is 4D, colour or complex, or its scaling is not finite.
    GridMismatch
        If it has a missing or zero spacing, or an affine that makes no sense.
    """
    path = Path(path)
    header, voxels = read_voxels(path)
    _check_dtype(header, path)
    voxels = _three_axes(voxels, path)
    _check_spacing(header, path)
    source = _source(header, voxels.shape, path)
    stored = source.to_stored(voxels)
    return Loaded(
        stored.astype(stored.dtype.newbyteorder("="), copy=False), source.grid, _scaling(header, path), source
    )


def read_label(path: AnyPath) -> Loaded:
    """Read a label map: as `read_image`, with the scaling applied and every value an integer.

    Raises
    ------
    InvalidLabel
        If a value is not an integer.
    """
    loaded = read_image(path)
    return loaded._replace(voxels=_integers(loaded, Path(path)), scaling=(1.0, 0.0))


def write_labels(
    path: AnyPath, class_indices: LabelDHW, source: Source, table: ClassTable, *, overwrite: bool = False
) -> None:
    """Write a segmentation on the source's grid with the user's ids, as uint8 or the next type that fits.

    Raises
    ------
    ProjectError
        If the file exists and `overwrite` is off.
    """
    _write(Path(path), table.decode(class_indices), source, (1.0, 0.0), overwrite, intent=_LABEL_INTENT)


def write_ids(path: AnyPath, ids: NDArray[Any], source: Source, *, overwrite: bool = False) -> None:
    """Write label values as they are, in their own integer dtype; errors as of `write_labels`."""
    _write(Path(path), ids, source, (1.0, 0.0), overwrite, intent=_LABEL_INTENT)


def write_image(
    path: AnyPath,
    image: ImageDHW,
    source: Source,
    *,
    scaling: Scaling = (1.0, 0.0),
    overwrite: bool = False,
) -> None:
    """Write an image or map (a probability, say) on the source's grid, in its own dtype (float16 as float32)."""
    image = image.astype(np.float32) if image.dtype == np.float16 else image
    _write(Path(path), image, source, scaling, overwrite)


def _write(
    path: Path, stored: NDArray[Any], source: Source, scaling: Scaling, overwrite: bool, *, intent: int = 0
) -> None:
    if stored.shape != source.grid.shape:
        raise GridMismatch(
            f"shape {stored.shape}",
            f"results for {source.name} have its shape, {source.grid.shape} (D, H, W)",
            "Write the result of that volume",
            path,
        )
    if path.exists() and not overwrite:
        raise ProjectError(
            "the file exists", "nothing is overwritten unasked", "Ask to overwrite, or name another", path
        )
    header = _header_for(stored.dtype, source, scaling, intent)
    voxels = source.to_file(stored).astype(header.get_data_dtype(), copy=False)
    with replacing(path) as aside, aside.open("wb") as file:
        blocks = header.binaryblock, b"\0\0\0\0", voxels.tobytes(order="F")
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                packed.writelines(blocks)
        else:
            file.writelines(blocks)


def _header_for(dtype: np.dtype[Any], source: Source, scaling: Scaling, intent: int) -> nib.Nifti1Header:
    """The source's header with our dtype, shape and scaling; geometry untouched."""
    header = source.read_header()
    header.set_data_dtype(dtype)
    header["dim"] = [3, *source.shape, 1, 1, 1, 1]
    header["vox_offset"] = int(header["sizeof_hdr"]) + 4
    header["scl_slope"], header["scl_inter"] = scaling
    header["cal_min"] = header["cal_max"] = 0
    header["intent_code"] = intent
    for name in ("intent_p1", "intent_p2", "intent_p3"):
        header[name] = 0
    return header


def _check_dtype(header: nib.Nifti1Header, path: Path) -> None:
    dtype = header.get_data_dtype()
    kind = "colour (RGB)" if dtype.fields else "complex" if dtype.kind == "c" else f"of type {dtype}"
    if dtype.fields or dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InvalidIntensity(
            f"voxels are {kind}",
            "an image has one real value of at most 64 bits a voxel",
            "Convert it to one grey channel",
            path,
        )


def _three_axes(voxels: NDArray[Any], path: Path) -> NDArray[Any]:
    """Drop trailing axes of one; refuse 2D, time series and channels."""
    shape = voxels.shape
    if len(shape) < 3 or any(size != 1 for size in shape[3:]):
        raise InvalidIntensity(
            f"{len(shape)}D image of shape {shape} (x, y, z, …)",
            "an image is 3D, with one channel and one time point",
            "Split it into 3D files" if len(shape) > 3 else "Give the whole volume",
            path,
        )
    return voxels.reshape(shape[:3], order="F")


def _check_spacing(header: nib.Nifti1Header, path: Path) -> None:
    spacing = header["pixdim"][1:4]
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        raise GridMismatch(
            f"spacing (pixdim) {tuple(float(s) for s in spacing)} along x, y, z",
            "every spacing is a number above zero",
            "Set the voxel size in the file's header",
            path,
        )


def _source(header: nib.Nifti1Header, shape: tuple[int, ...], path: Path) -> Source:
    _check_codes(header, path)
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused just below
            affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    except (nib.spatialimages.HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise GridMismatch(
            f"affine: {error}", "qform and sform are valid", "Mend the header", path
        ) from error
    check_affine(affine, path)
    return Source.of(path.name, header, affine, (shape[0], shape[1], shape[2]))


def _check_codes(header: nib.Nifti1Header, path: Path) -> None:
    """Refuse a code that no reader knows where it decides which affine holds: programs would disagree."""
    for name in ("sform_code", "qform_code"):
        code = int(header[name])
        if code not in _XFORM_CODES:
            raise GridMismatch(
                f"{name} {code}", f"codes are 0 to {_XFORM_CODES[-1]}", "Mend the header's affine", path
            )
        if code > 0:
            return  # the other one is not looked at


def _scaling(header: nib.Nifti1Header, path: Path) -> Scaling:
    """(slope, intercept) of the header; a slope of 0 or NaN means none, as the standard has it."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not np.isfinite((slope, intercept)).all():
        raise InvalidIntensity(
            f"scaling {slope:g} · x + {intercept:g}",
            "slope and intercept are finite",
            "Mend the header",
            path,
        )
    return slope, intercept


def _integers(loaded: Loaded, path: Path) -> NDArray[Any]:
    voxels, (slope, intercept) = loaded.voxels, loaded.scaling
    if loaded.scaling == (1.0, 0.0) and voxels.dtype.kind in "iu":
        return voxels
    values = voxels.astype(np.float64) * slope + intercept
    rounded = np.rint(values)
    slack = 0.0 if loaded.scaling == (1.0, 0.0) else _ROUNDING
    with np.errstate(invalid="ignore"):  # inf - inf: refused just below
        wrong = ~(np.abs(values - rounded) <= slack) | ~(np.abs(rounded) < 1 << 53)
    if wrong.any():
        first = ", ".join(f"{value:g}" for value in np.unique(values[wrong])[:4])
        raise InvalidLabel(
            f"{int(wrong.sum())} voxels with values such as {first}",
            "a label holds integer class ids",
            "Give the segmentation, not a probability or a resampled image",
            path,
        )
    return rounded.astype(np.int64)
