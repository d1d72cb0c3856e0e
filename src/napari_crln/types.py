"""The one card of array aliases: axis names, shapes, dtypes, units.

Axes are always ordered D, H, W = z, y, x, and volumes are stored in RAS+ orientation: x grows to the
patient's right, y to the front, z to the head. Affines map voxel indices in (x, y, z) order to
millimetres in RAS+ world space, as in NIfTI. "In-plane" means the H-W plane, an axial slice.

Suffixes used in the code: B batch, C classes (background included), R prototypes a class,
F prototype width, K features of a decoder stage, N tokens (voxels of a stage), D H W voxels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

#: Intensities as stored, (D, H, W), any real dtype.
ImageDHW: TypeAlias = NDArray[Any]
#: Intensities after the volume's recorded normalisation, (D, H, W).
NormalisedDHW: TypeAlias = NDArray[np.float32]
#: Class indices 0 … C-1, (D, H, W), unsigned.
LabelDHW: TypeAlias = NDArray[np.unsignedinteger[Any]]
#: Annotation as stored, (D, H, W): 0 = not annotated, 1 = background, k + 1 = class k.
AnnotationDHW: TypeAlias = NDArray[np.unsignedinteger[Any]]
#: Training target, (D, H, W): class index, or IGNORE where a voxel carries no label.
TargetDHW: TypeAlias = NDArray[np.int16]
#: Class probabilities, (C, D, H, W).
ProbabilityCDHW: TypeAlias = NDArray[np.float32]
#: Voxel (x, y, z, 1) to RAS+ millimetres, (4, 4).
Affine: TypeAlias = NDArray[np.float64]

#: Number of voxels along D, H, W.
ShapeDHW: TypeAlias = tuple[int, int, int]
#: Millimetres a voxel along D, H, W.
SpacingDHW: TypeAlias = tuple[float, float, float]
AnyPath: TypeAlias = str | Path

Role: TypeAlias = Literal["labelled", "unlabelled", "validation", "test"]
Coverage: TypeAlias = Literal["dense", "sparse"]

#: Target value of a voxel that carries no label: no loss, no statistic.
IGNORE = -1
#: Stored annotation value of a voxel that nobody annotated.
NOT_ANNOTATED = 0
