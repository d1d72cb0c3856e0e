"""What holds for all tests: no time limit on single examples, since CI machines are shared and slow at times.

And the tiny run that tests of nn, method and engine share: a V-Net of 2 filters on patches of 16³.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings

from napari_crln import config
from napari_crln.types import IGNORE
from napari_crln.volume.intensity import measure

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
