from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from napari_crln.config import Rectification
from napari_crln.method.losses import supervised_loss
from napari_crln.method.rectify import Trust, fuse, pseudo_labels, rectified_labels, rectify
from napari_crln.types import IGNORE


def voxel(*values: float) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1, 1)


def test_rectification_by_hand_and_the_label_that_it_flips() -> None:
    z, m = voxel(2.0, 1.0, 0.0), voxel(-1.0, 1.0, 0.5)
    rectified = rectify(z, m, torch.tensor(0.2), Rectification())
    torch.testing.assert_close(rectified, voxel(2 - 0.8, 1 + 0.8, 0.4))
    before, after = pseudo_labels(z), pseudo_labels(rectified)
    assert (before.label_BDHW.item(), after.label_BDHW.item()) == (0, 1)
    e = [math.exp(v) for v in (1.2, 1.8, 0.4)]
    assert after.confidence_BDHW.item() == pytest.approx(e[1] / sum(e))


def test_rectification_of_probabilities_is_the_ablation() -> None:
    z, m = voxel(2.0, 0.0), voxel(0.0, 1.0)
    p = 1 / (1 + math.exp(-2))
    rectified = rectify(z, m, torch.tensor(0.5), Rectification(on="probabilities"))
    torch.testing.assert_close(rectified, voxel(p, 1 - p + 0.5))


@pytest.mark.parametrize("mu", [0.0, 0.2, 1.0])
def test_a_mean_has_the_label_of_the_sum_and_is_less_sure_of_it(mu: float) -> None:
    z, m = 4 * torch.randn(2, 3, 4, 4, 4), 4 * torch.randn(2, 3, 4, 4, 4)
    of_sum = rectified_labels(z, m, torch.tensor(mu), Rectification(confidence="sum"))
    of_mean = rectified_labels(z, m, torch.tensor(mu), Rectification(confidence="mean"))
    assert torch.equal(of_sum.label_BDHW, of_mean.label_BDHW)
    assert (of_mean.confidence_BDHW <= of_sum.confidence_BDHW + 1e-6).all()
    expected = ((z + (1 - mu) * m) / (2 - mu)).softmax(1).amax(1)
    torch.testing.assert_close(of_mean.confidence_BDHW, expected)
    if mu == 1:  # the teacher alone
        torch.testing.assert_close(of_mean.confidence_BDHW, pseudo_labels(z).confidence_BDHW)


def test_full_trust_leaves_the_teacher_as_it_is() -> None:
    z, m = torch.randn(1, 3, 2, 2, 2), torch.randn(1, 3, 2, 2, 2)
    assert torch.equal(fuse(z, m, 1.0), z)
    assert torch.equal(fuse(z, m, 0.0), z + m)


def test_mu_starts_where_it_is_told() -> None:
    assert Trust(Rectification(mu_initial=0.3)).mu.item() == pytest.approx(0.3)


@pytest.fixture
def target() -> Tensor:
    return torch.randint(0, 3, (2, 4, 4, 4), generator=torch.Generator().manual_seed(0))


def fitted(clues: Tensor, target: Tensor, initial: float = 0.5, steps: int = 20) -> float:
    trust = Trust(Rectification(mu_initial=initial, mu_learning_rate=0.5))
    logits = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        trust.fit(logits, clues, target)
    return trust.mu.item()


def truth(target: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()


def test_mu_falls_where_clues_inform(target: Tensor) -> None:
    assert fitted(2 * truth(target), target) < 0.4


def test_mu_rises_where_clues_harm(target: Tensor) -> None:
    assert fitted(-2 * truth(target), target) > 0.6


def test_mu_stays_where_clues_say_nothing(target: Tensor) -> None:
    assert fitted(torch.zeros(2, 3, 4, 4, 4), target) == pytest.approx(0.5, abs=1e-7)
    same_for_all_classes = torch.randn(2, 1, 4, 4, 4).expand(-1, 3, -1, -1, -1)
    assert fitted(same_for_all_classes, target) == pytest.approx(0.5, abs=1e-5)


def test_a_step_of_mu_is_plain_gradient_descent_on_the_supervised_loss(target: Tensor) -> None:
    trust = Trust(Rectification(mu_initial=0.05, mu_learning_rate=0.7))
    z, m = torch.randn(2, 3, 4, 4, 4), torch.randn(2, 3, 4, 4, 4)
    a, e = trust.a.item(), 1e-2

    def loss(value: float) -> float:
        mu = 1 / (1 + math.exp(-value))
        return supervised_loss((z + (1 - mu) * m).double(), target).item()

    slope = (loss(a + e) - loss(a - e)) / (2 * e)
    trust.fit(z, m, target)
    assert trust.a.item() == pytest.approx(a - 0.7 * slope, abs=1e-5)


def test_fitting_mu_gives_nothing_else_a_gradient(target: Tensor) -> None:
    z, m = (torch.randn(2, 3, 4, 4, 4, requires_grad=True) for _ in range(2))
    trust = Trust(Rectification())
    trust.fit(z, m, target)
    assert z.grad is None
    assert m.grad is None
    assert trust.a.grad is None


def test_unlabelled_and_non_finite_steps_leave_mu_alone(target: Tensor) -> None:
    assert fitted(truth(target), torch.full_like(target, IGNORE)) == pytest.approx(0.5, abs=1e-7)
    assert fitted(torch.full((2, 3, 4, 4, 4), torch.nan), target) == pytest.approx(0.5, abs=1e-7)
