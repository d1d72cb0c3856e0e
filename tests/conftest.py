"""What holds for all tests: no time limit on single examples, since CI machines are shared and slow at times.

And the tiny run that tests of nn, method and engine share: a V-Net of 2 filters on patches of 16³.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings

from napari_crln import config

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


@pytest.fixture
def settings() -> Callable[..., config.RunConfig]:
    """Configuration of a tiny run: `settings(method, section={...})`."""

    def build(method: str = "crln", /, **sections: Any) -> config.RunConfig:
        return config.build(TINY, {"method": {"name": method}}, sections)

    return build
