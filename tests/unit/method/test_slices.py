"""What slices are summed from, against the method's own functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from napari_crln.config import RunConfig
from napari_crln.engine.state import build_learner
from napari_crln.method.rectify import rectify
from napari_crln.method.slices import (
    CONFLICT,
    COUNT,
    FEATURES,
    UNCERTAINTY,
    WEIGHT,
    SliceBelief,
    slice_belief,
    sums_along,
)

Settings = Callable[..., RunConfig]


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))


def test_uncertainty_and_disagreement_are_the_methods(settings: Settings, x: torch.Tensor) -> None:
    learner = build_learner(settings(), 3, torch.device("cpu"))
    belief = slice_belief(learner, x, rectifies=True)
    with torch.no_grad():
        output = learner.teacher(x)
        clues = learner.teacher.clues(output)
        z = output.logits_BCDHW
        z_r = rectify(z, clues.map_BCDHW, learner.trust.mu, learner.settings.rectification)
    p, p_r = z.softmax(1), z_r.softmax(1)
    assert belief.disagreement_BDHW is not None
    torch.testing.assert_close(belief.uncertainty_BDHW, 1 - p_r.max(1).values)
    torch.testing.assert_close(belief.disagreement_BDHW, (p - p_r).abs().sum(1) / 2)
    assert float(belief.disagreement_BDHW.max()) <= 1
    assert belief.features_BKdhw.shape == (2, 3 * 2, 8, 8, 8)  # C·R scores at half resolution
    torch.testing.assert_close(belief.features_BKdhw[:, 3], clues.proximity[:, 1, 1])


@pytest.mark.parametrize(
    ("method", "rectifies"), [("supervised", True), ("mean-teacher", True), ("crln", False)]
)
def test_without_rectification_nothing_disagrees(
    settings: Settings, x: torch.Tensor, method: str, rectifies: bool
) -> None:
    learner = build_learner(settings(method), 3, torch.device("cpu"))
    belief = slice_belief(learner, x, rectifies)
    assert belief.disagreement_BDHW is None
    with torch.no_grad():
        p = learner.teacher(x).logits_BCDHW.softmax(1)
    torch.testing.assert_close(belief.uncertainty_BDHW, 1 - p.max(1).values)
    torch.testing.assert_close(belief.object_BDHW, 1 - p[:, 0])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sums_are_those_of_each_slice(axis: int) -> None:
    generator = torch.Generator().manual_seed(1)
    u, d, o = (torch.rand(1, 4, 6, 8, generator=generator) for _ in range(3))
    features = torch.rand(1, 2, 2, 3, 4, generator=generator)
    valid = torch.rand(1, 4, 6, 8, generator=generator) < 0.7
    sums = sums_along(SliceBelief(u, d, o, features), valid, axis)[0]
    assert sums.shape == ((4, 6, 8)[axis], FEATURES + 2)
    for index in range(len(sums)):
        at = (0, *((slice(None),) * axis), index)
        assert sums[index, COUNT] == valid[at].sum()
        torch.testing.assert_close(sums[index, UNCERTAINTY], u[at][valid[at]].sum())
        torch.testing.assert_close(sums[index, CONFLICT], (u * d)[at][valid[at]].sum())


def test_features_are_weighted_by_doubt_and_object() -> None:
    """One coarse voxel bears all the weight: its features are the slice's."""
    u = torch.zeros(1, 4, 4, 4)
    u[0, 2:, :2, :2] = 1
    features = torch.arange(8.0).view(1, 1, 2, 2, 2)
    sums = sums_along(
        SliceBelief(u, None, torch.zeros_like(u), features), torch.ones_like(u, dtype=torch.bool), 0
    )
    assert sums[0, :2, WEIGHT].tolist() == [0, 0]
    assert (sums[0, 2:, FEATURES] / sums[0, 2:, WEIGHT]).tolist() == [4, 4]


def test_what_padding_invented_counts_nowhere() -> None:
    u, valid = torch.rand(1, 4, 4, 4), torch.zeros(1, 4, 4, 4, dtype=torch.bool)
    valid[:, 1:3] = True
    wild = torch.where(valid, u, 1e6)
    features = torch.rand(1, 2, 4, 4, 4)
    a, b = (sums_along(SliceBelief(v, v, v, features), valid, 1) for v in (u, wild))
    torch.testing.assert_close(a, b)


class _Operators(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("coarse", [(8, 16, 16), (4, 8, 8), (16, 32, 32)])  # stages 3, 2 and 4
def test_weights_are_pooled_as_torch_does_by_operators_that_every_device_has(
    coarse: tuple[int, int, int],
) -> None:
    """MPS has no adaptive pooling of three axes."""
    generator = torch.Generator().manual_seed(2)
    u, o = (torch.rand(2, 16, 32, 32, generator=generator) for _ in range(2))
    valid = torch.rand(2, 16, 32, 32, generator=generator) < 0.7
    features = torch.rand(2, 3, *coarse, generator=generator)
    with _Operators() as operators:
        sums = sums_along(SliceBelief(u, None, o, features), valid, 0)
    assert "sum.dim_IntList" in operators.names
    assert not [name for name in operators.names if "pool" in name]
    weight = torch.nn.functional.adaptive_avg_pool3d(((u + o) * valid).unsqueeze(1), coarse)
    expected = torch.cat([weight, weight * features], 1).sum((3, 4)).transpose(1, 2)
    found = sums[:, :: 16 // coarse[0], WEIGHT:]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
