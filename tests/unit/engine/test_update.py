from __future__ import annotations

import pytest
import torch
from torch import nn

from napari_crln.config import Optimiser
from napari_crln.engine.update import descend, learning_rate


def test_schedule_is_polynomial() -> None:
    settings = Optimiser(learning_rate=0.1, power=0.9)
    rates = [learning_rate(t, 100, settings) for t in range(101)]
    assert rates[0] == 0.1
    assert rates[50] == pytest.approx(0.1 * 0.5**0.9)
    assert rates[99] == rates[100] == pytest.approx(0.1 * 0.01**0.9)
    assert rates == sorted(rates, reverse=True)


def test_warm_up_is_linear() -> None:
    settings = Optimiser(learning_rate=0.1, power=0.0, warmup=4)
    assert [learning_rate(t, 10, settings) for t in range(5)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])


def optimiser(model: nn.Module, fused: bool) -> torch.optim.SGD:
    return torch.optim.SGD(
        model.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=0.01, fused=fused
    )


@pytest.fixture
def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_nothing_moves_where_loss_or_gradient_is_not_finite(
    model: nn.Linear, fused: bool, bad: float, clip: float | None
) -> None:
    sgd, x = optimiser(model, fused), torch.randn(4, 3)
    descend(sgd, model(x).square().sum(), 0.1, clip)
    weights = model.weight.detach().clone()
    momentum = sgd.state[model.weight]["momentum_buffer"].clone()
    norm = descend(sgd, (model(x) * bad).sum(), 0.1, clip)
    assert not torch.isfinite(norm)
    assert torch.equal(model.weight, weights)
    assert torch.equal(sgd.state[model.weight]["momentum_buffer"], momentum)
    assert torch.isfinite(descend(sgd, model(x).square().sum(), 0.1, clip))
    assert not torch.equal(model.weight, weights), "a sound step after it does not move"


@pytest.mark.parametrize("fused", [True, False])
def test_a_finite_step_is_nesterov_by_hand(model: nn.Linear, fused: bool) -> None:
    sgd, x = optimiser(model, fused), torch.randn(4, 3)
    weight, velocity = model.weight.detach().clone(), torch.zeros(2, 3)
    for rate in (0.1, 0.05):
        loss = model(x).square().sum()
        (gradient,) = torch.autograd.grad(loss, model.weight, retain_graph=True)
        norm = descend(sgd, loss, rate, None)
        decayed = gradient + 0.01 * weight
        velocity = 0.9 * velocity + decayed
        weight = weight - rate * (decayed + 0.9 * velocity)
        torch.testing.assert_close(model.weight.detach(), weight)
        assert norm >= gradient.norm()


def test_the_norm_told_is_that_before_clipping(model: nn.Linear) -> None:
    sgd = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    before = model.weight.detach().clone(), model.bias.detach().clone()
    norm = descend(sgd, 1000 * model(torch.ones(1, 3)).sum(), 1.0, clip_norm=0.5)
    moved = torch.cat([(before[0] - model.weight).flatten(), before[1] - model.bias]).norm()
    assert norm.item() == pytest.approx(1000 * 8**0.5, rel=1e-4)
    assert moved.item() == pytest.approx(0.5, rel=1e-4)
