"""What holds for all tests, and a tiny data set in the Decathlon form.

No time limit on single examples of hypothesis: CI machines are shared and slow at times.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from napari_crln.volume.phantom import CLASSES, phantom_cohort

settings.register_profile("crln", deadline=None)
settings.load_profile("crln")


@pytest.fixture(scope="session")
def decathlon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Decathlon folder of phantoms, 16 × 24 × 20 voxels: 5 training cases, 2 test cases. Not to be changed."""
    folder = tmp_path_factory.mktemp("data") / "organs"
    training, test = [], []
    for index, phantom in enumerate(phantom_cohort(7, seed=3, shape=(16, 24, 20))):
        part = "Tr" if index < 5 else "Ts"
        _save(folder / f"images{part}" / f"case_{index}.nii.gz", phantom.image)
        if part == "Tr":
            _save(folder / "labelsTr" / f"case_{index}.nii.gz", phantom.labels)
            training.append({key: f"./{key}sTr/case_{index}.nii.gz" for key in ("image", "label")})
        else:
            test.append(f"./imagesTs/case_{index}.nii.gz")
    labels = {str(index): name for index, name in enumerate(("background", *CLASSES))}
    described = {"labels": labels, "training": training, "test": test}
    (folder / "dataset.json").write_text(json.dumps(described), "utf-8")
    return folder


def _save(path: Path, array_DHW: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.array(
        [[-1.0, 0, 0, 30], [0, -1.0, 0, 40], [0, 0, 1.5, -7], [0, 0, 0, 1]]
    )  # LPS: not as stored
    nib.save(nib.Nifti1Image(array_DHW.T[::-1, ::-1], affine), path)
