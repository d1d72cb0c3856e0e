"""What each field of `[method.cps]` does to the loss, by hand, on a handful of voxels whose representations are given.

Class 1 is one voxel, e₀. Class 0 is three, of different lengths and directions but of cosine CLOSE with it, so that it
does not matter which of them is drawn as a negative.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_crln import config
from napari_crln.method import cps
from napari_crln.method.cps import cps_loss
from napari_crln.nn.dim import DynamicInteraction
from napari_crln.nn.model import RepresentationHead
from napari_crln.types import IGNORE

CLOSE = 0.3
SIDE = math.sqrt(1 - CLOSE**2)
V = torch.tensor([[CLOSE, SIDE, 0, 0], [CLOSE, 0, SIDE, 0], [CLOSE, 0, 0, SIDE], [2, 0, 0, 0]])
V = V * torch.tensor([[1.0], [2.0], [3.0], [1.0]])
LABEL = torch.tensor([0, 0, 0, 1, *[IGNORE] * 4])
#: The student's probability of each voxel's class.
SURE = [0.3, 0.6, 0.9, 0.1]


class Given(RepresentationHead):
    """A head that reads representations from a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__(1, table.shape[1], None)
        self.table = table

    def forward(self, features_BKDHW: Tensor, index_n: Tensor) -> Tensor:
        return F.pad(self.table, (0, 0, 0, 8 - len(self.table)))[index_n]


def prototypes(classes: int) -> DynamicInteraction:
    torch.manual_seed(0)
    return DynamicInteraction(classes, {3: 4}, {3: 2}, config.Dim(prototypes=2, width=4, stages=(3,)))


def loss(seed: int = 0, **settings: Any) -> float:
    probability = torch.zeros(1, 2, 8)
    for voxel, (c, p) in enumerate(zip(LABEL[:4], SURE, strict=True)):
        probability[0, c, voxel] = p
    term = cps_loss(
        torch.zeros(1, 1, 2, 2, 2),
        probability.view(1, 2, 2, 2, 2),
        LABEL.view(1, 2, 2, 2),
        Given(V),
        prototypes(2),
        config.Cps(**{"anchors": 8, "negatives": 5, "xi": 0.5, **settings}),
        torch.Generator().manual_seed(seed),
    )
    return term.loss.item()


def by_hand(xi: float = 0.5, tau: float = 0.5, certain: float = 0.97, negatives: float = 5) -> float:
    """The mean over classes of the mean over each class's anchors; `negatives`: what their sum counts them as."""
    of_class = []
    for c, members in enumerate(([0, 1, 2], [3])):
        prototype = prototypes(2).prototypes[c].mean(0)
        positive = (V[members].mean(0) + xi * prototype) / (1 + xi)
        anchors = [k for k in members if SURE[k] < certain]
        terms = []
        for k in anchors:
            pull = math.exp(F.cosine_similarity(V[k], positive, dim=0).item() / tau)
            terms.append(-math.log(pull / (pull + negatives * math.exp(CLOSE / tau))))
        of_class.append(sum(terms) / len(terms))
    return sum(of_class) / 2


def test_classes_count_alike_however_many_anchors_they_have() -> None:
    assert loss() == pytest.approx(by_hand(), rel=1e-5)


@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
def test_temperature_is_that_of_the_loss(tau: float) -> None:
    assert loss(temperature=tau) == pytest.approx(by_hand(tau=tau), rel=1e-4)


@pytest.mark.parametrize("certain", [0.5, 0.8, 0.97])
def test_certain_says_who_is_an_anchor(certain: float) -> None:
    assert loss(certain=certain) == pytest.approx(by_hand(certain=certain), rel=1e-5)


@pytest.mark.parametrize("count", [5, 50])
def test_negatives_count_each_or_by_their_mean(count: int) -> None:
    assert loss(negatives=count) == pytest.approx(by_hand(negatives=count), rel=1e-5)
    assert loss(negatives=count, mean_negatives=True) == pytest.approx(by_hand(negatives=1), rel=1e-5)


@pytest.mark.parametrize("xi", [0.0, 0.5, 3.0])
def test_xi_may_be_set(xi: float) -> None:
    assert loss(xi=xi) == pytest.approx(by_hand(xi=xi), rel=1e-5)


@pytest.fixture
def positives(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, float]]:
    """(r_m, ξ) of each call, as they come."""
    made: list[tuple[Tensor, float]] = []
    original = cps.unassertive_positive

    def note(mean: Tensor, prototype: Tensor, xi: Tensor) -> Tensor:
        made.append((mean, xi.item()))
        return original(mean, prototype, xi)

    monkeypatch.setattr(cps, "unassertive_positive", note)
    return made


def test_xi_is_drawn_evenly_between_0_and_1_each_step(positives: list[tuple[Tensor, float]]) -> None:
    for seed in range(300):
        loss(seed, xi=None)
    xi = torch.tensor([x for _, x in positives])
    assert (xi.histc(4, 0, 1) > 50).all()  # 75 expected, standard deviation 7.5; none beyond 0-1:
    assert xi.histc(4, 0, 1).sum() == 300


def test_negatives_also_bound_the_voxels_that_a_class_mean_is_made_of(
    positives: list[tuple[Tensor, float]],
) -> None:
    for seed in range(30):
        loss(seed, negatives=1)
    means = torch.stack([mean[0] for mean, _ in positives])
    assert {int((mean == V[:3]).all(1).nonzero()) for mean in means} == {0, 1, 2}
    loss(negatives=3)
    torch.testing.assert_close(positives[-1][0][0], V[:3].mean(0))


@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
def test_temperature_is_also_that_of_the_draw_of_negatives_classes(tau: float) -> None:
    """Class 0 meets a similar class 1 and an opposite class 2; by their mean, many negatives give their shares."""
    table = torch.tensor([[1.0, 0, 0, 0], [0.6, 0.8, 0, 0], [-0.6, 0, 0.8, 0]])
    label = torch.tensor([0, 1, 2, *[IGNORE] * 5]).view(1, 2, 2, 2)
    probability = torch.full((1, 3, 2, 2, 2), 1.0)
    probability[0, 0] = 0.0  # anchors of class 0 alone
    settings = config.Cps(anchors=1, negatives=50_000, xi=0.0, temperature=tau, mean_negatives=True)
    generator = torch.Generator().manual_seed(0)
    term = cps_loss(
        torch.zeros(1, 1, 2, 2, 2), probability, label, Given(table), prototypes(3), settings, generator
    )
    cosine = torch.tensor([0.6, -0.6])
    pull, push = math.exp(1 / tau), ((cosine / tau).softmax(0) * (cosine / tau).exp()).sum().item()
    assert term.loss.item() == pytest.approx(-math.log(pull / (pull + push)), rel=0.01)
