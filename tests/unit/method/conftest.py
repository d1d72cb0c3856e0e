"""One learner and one batch for the tests of whole steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from napari_crln.config import RunConfig
from napari_crln.engine.state import build_learner
from napari_crln.method.learner import Batch, Learner


@pytest.fixture
def learner(settings: Callable[..., RunConfig]) -> Callable[..., Learner]:
    """`learner(method, section={...})`: a learner of 3 classes, its weights from seed 0."""

    def build(method: str = "crln", /, **sections: object) -> Learner:
        made = build_learner(settings(method, **sections), 3, torch.device("cpu"))
        made.student.train()
        return made

    return build


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(5)
    y_l = torch.randint(0, 3, (2, 16, 16, 16), generator=generator).to(torch.int16)
    x_l, x_u = torch.rand(2, 2, 1, 16, 16, 16, generator=generator)
    return Batch(x_l + y_l.unsqueeze(1), y_l, x_u, torch.ones(2, 16, 16, 16, dtype=torch.bool))
