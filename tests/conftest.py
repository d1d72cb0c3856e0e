"""What holds for all tests, the tiny run of nn, method and engine, and a tiny data set in the Decathlon form.

No time limit on single examples of hypothesis: CI machines are shared and slow at times.
The tiny run is a V-Net of 2 filters on patches of 16³.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from numpy.typing import NDArray

from napari_crln import config
from napari_crln.types import IGNORE
from napari_crln.volume.intensity import measure
from napari_crln.volume.phantom import CLASSES, phantom_cohort

hypothesis_settings.register_profile("crln", deadline=None)
hypothesis_settings.load_profile("crln")

TINY: dict[str, Any] = {
    "iterations": 6,
    "network": {"base_filters": 2},
    "optimiser": {"learning_rate": 0.05},
    "batches": {"patch": [16, 16, 16]},
    "method": {
        "dim": {"prototypes": 2, "width": 4},
        "rectification": {"after": 2, "mu_learning_rate": 0.5},
        "consistency": {"sample_threshold": 0.4},
        "cps": {"anchors": 8, "negatives": 16, "valid_confidence": 0.4},
        "bcp": {"pretrain": 0},
    },
    "engine": {"device": "cpu", "log_every": 1, "checkpoint_every": 1000},
}


def make_case(name: str, shape: tuple[int, int, int] = (18, 20, 22), target: bool = True) -> Any:
    """A noisy volume with two bright boxes, classes 1 and 2, and its target."""
    from napari_crln.engine.cohort import Case

    rng = np.random.default_rng(sum(name.encode()))
    truth = np.zeros(shape, np.int16)
    for k in (1, 2):
        d, h, w = (int(rng.integers(n // 2)) for n in shape)
        truth[d : d + 7, h : h + 7, w : w + 7] = k
    image = (rng.normal(40, 10, shape) + 60 * truth).clip(0, 255).astype(np.uint8)
    return Case(name, image, measure(image, "percentile"), truth if target else None)


@pytest.fixture
def training_data() -> Any:
    """Two labelled volumes, one of them sparse, two unlabelled, one of them too small, one for validation."""
    from napari_crln.engine.data import TrainingData

    dense, sparse = make_case("a"), make_case("b")
    sparse.target[3:] = IGNORE
    unlabelled = [make_case("c", target=False), make_case("d", (12, 20, 13), target=False)]
    return TrainingData(("background", "one", "two"), [dense, sparse], unlabelled, [make_case("v")])


@pytest.fixture
def settings() -> Callable[..., config.RunConfig]:
    """Configuration of a tiny run: `settings(method, section={...})`."""

    def build(method: str = "crln", /, **sections: Any) -> config.RunConfig:
        return config.build(TINY, {"method": {"name": method}}, sections)

    return build


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
