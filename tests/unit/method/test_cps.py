from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_crln import config
from napari_crln.method.cps import (
    CpsTerm,
    Sample,
    class_means,
    cps_loss,
    draw_members,
    draw_negatives,
    info_nce,
    unassertive_positive,
    valid_labels,
)
from napari_crln.nn.dim import DynamicInteraction
from napari_crln.nn.model import RepresentationHead
from napari_crln.types import IGNORE

CLASSES, WIDTH = 3, 4
SIZE = (2, 4, 4, 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Parts:
    """Features, probabilities and modules of a toy in which every class is there and every voxel unsure."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.settings = config.Cps(anchors=16, negatives=8)
        self.head = RepresentationHead(5, WIDTH, None)
        stage = config.Dim(prototypes=2, width=WIDTH, stages=(3,))
        self.dim = DynamicInteraction(CLASSES, {3: WIDTH}, {3: 2}, stage)
        self.features = torch.randn(SIZE[0], 5, *SIZE[1:], requires_grad=True)
        self.logits = torch.randn(SIZE[0], CLASSES, *SIZE[1:], requires_grad=True)
        self.label = torch.randint(0, CLASSES, SIZE)

    def term(self, seed: int = 0) -> CpsTerm:
        probability = self.logits.softmax(1)
        return cps_loss(
            self.features, probability, self.label, self.head, self.dim, self.settings, generator(seed)
        )


@pytest.fixture
def parts() -> Parts:
    return Parts()


def test_info_nce_is_cross_entropy_with_the_positive_first() -> None:
    positive, negatives = torch.rand(6), torch.rand(6, 9)
    logits = torch.cat([positive[:, None], negatives], 1) / 0.5
    expected = F.cross_entropy(logits, torch.zeros(6, dtype=torch.long), reduction="none")
    torch.testing.assert_close(info_nce(positive, negatives, 0.5), expected)


@pytest.mark.parametrize("count", [1, 9, 512])
def test_negatives_that_count_by_their_mean_leave_the_floor_where_it_is(count: int) -> None:
    positive, negatives = torch.full((4,), 1.0), torch.full((4, count), -1.0)
    term = info_nce(positive, negatives, 0.5, mean_negatives=True)
    one = info_nce(positive, negatives[:, :1], 0.5)
    torch.testing.assert_close(term, one)
    spread = torch.linspace(-1, 1, count).expand(4, count)
    by_hand = -torch.log(
        torch.exp(positive / 0.5) / (torch.exp(positive / 0.5) + torch.exp(spread / 0.5).mean(1))
    )
    torch.testing.assert_close(info_nce(positive, spread, 0.5, mean_negatives=True), by_hand)


@pytest.mark.parametrize("temperature", [0.5, 0.02, 0.001])
def test_negatives_are_drawn_at_any_temperature(temperature: float) -> None:
    pool = Sample(torch.arange(6).view(3, 2), torch.ones(3, 2, dtype=torch.bool))
    mean = torch.randn(3, WIDTH, generator=generator())
    drawn = draw_negatives(mean, torch.tensor([True] * 3), pool, (20, 20), temperature, generator())
    own = torch.arange(3).view(3, 1, 1)
    assert (drawn // 2 != own).all()


def test_at_a_low_temperature_negatives_are_of_the_most_similar_class() -> None:
    pool = Sample(torch.arange(6).view(3, 2), torch.ones(3, 2, dtype=torch.bool))
    mean = torch.tensor([[1.0, 0.0], [0.25, 1.0], [0.0, 1.0]])  # to the first: cosines 0.24 and 0
    drawn = draw_negatives(mean, torch.tensor([True] * 3), pool, (20, 20), 0.001, generator())
    assert (drawn[0] // 2 == 1).all()


def test_unassertive_positive_by_hand() -> None:
    mean, prototype = torch.tensor([[1.0, 3.0]]), torch.tensor([[4.0, 0.0]])
    torch.testing.assert_close(unassertive_positive(mean, prototype, torch.tensor(0.0)), mean)
    torch.testing.assert_close(
        unassertive_positive(mean, prototype, torch.tensor(0.5)), torch.tensor([[2.0, 2.0]])
    )


def test_prototype_mean_is_over_the_prototypes_of_the_class(parts: Parts) -> None:
    torch.testing.assert_close(
        parts.dim.class_means_CF()[1], (parts.dim.prototypes[1, 0] + parts.dim.prototypes[1, 1]) / 2
    )


def test_class_means_leave_fillers_out() -> None:
    values = torch.tensor([[[1.0], [3.0], [100.0]], [[7.0], [8.0], [9.0]]])
    real = torch.tensor([[True, True, False], [False, False, False]])
    assert class_means(values, real).tolist() == [[2.0], [0.0]]


@pytest.mark.parametrize(
    ("valid_confidence", "sure"), [(0.6, [1, 2]), (0.7, [1, IGNORE]), (0.9, [IGNORE, IGNORE])]
)
def test_valid_voxels_are_the_labelled_and_the_sure(valid_confidence: float, sure: list[int]) -> None:
    target = torch.tensor([[[[0, 2, IGNORE]]]], dtype=torch.int16)
    pseudo = torch.tensor([[[[1, 2, IGNORE]]]])
    confidence = torch.tensor([[[[0.7, 0.69, 1.0]]]])
    label = valid_labels(target, pseudo, confidence, config.Cps(valid_confidence=valid_confidence))
    assert label.tolist() == [[[[0, 2, IGNORE]]], [[[*sure, IGNORE]]]]


def test_members_are_drawn_without_replacement_and_never_from_elsewhere() -> None:
    members = torch.zeros(2, 100, dtype=torch.bool)
    members[0, 10:40] = True
    members[1, 97:] = True
    sample = draw_members(members, 20, generator())
    assert sample.index_Ck.shape == (2, 20)
    assert sample.real_Ck.sum(1).tolist() == [20, 3]
    first = sample.index_Ck[0].tolist()
    assert len(set(first)) == 20
    assert set(first) <= set(range(10, 40))
    assert sorted(sample.index_Ck[1][sample.real_Ck[1]].tolist()) == [97, 98, 99]


def test_members_are_drawn_evenly() -> None:
    members = torch.ones(1, 10, dtype=torch.bool)
    counts = torch.zeros(10)
    for seed in range(600):
        counts[draw_members(members, 5, generator(seed)).index_Ck[0]] += 1
    assert counts.min() > 240  # 300 expected, standard deviation 12
    assert counts.max() < 360


def _negative_classes(mean: Tensor, present: list[bool], pool_size: int = 8) -> Tensor:
    """Classes (C, n) that negatives are drawn from."""
    pool = Sample(torch.zeros(len(mean), pool_size).long(), torch.ones(len(mean), pool_size).bool())
    drawn = draw_negatives(mean, torch.tensor(present), pool, (50, 40), 0.5, generator())
    return drawn.flatten(1) // pool_size


def test_negatives_are_never_of_the_anchors_class_nor_of_an_absent_one() -> None:
    classes = _negative_classes(torch.randn(4, 3), [True, True, False, True])
    for own in range(4):
        assert own not in classes[own]
        assert 2 not in classes[own]


def test_negatives_come_from_similar_classes_more_often() -> None:
    mean = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.0]])  # cosines with class 0: 0.8 and -1
    share = (_negative_classes(mean, [True] * 3)[0] == 1).float().mean()
    expected = torch.tensor([0.8, -1.0]).div(0.5).softmax(0)[0]
    assert share.item() == pytest.approx(expected.item(), abs=0.02)


def test_negatives_are_members_of_their_pool_and_not_its_fillers() -> None:
    pool = Sample(torch.zeros(2, 8).long(), torch.arange(8).expand(2, 8) < torch.tensor([[3], [8]]))
    drawn = draw_negatives(torch.randn(2, 3), torch.tensor([True, True]), pool, (20, 20), 0.5, generator())
    assert drawn[1].max() < 3, "a filler of class 0's pool was drawn"
    assert sorted(set((drawn[0] - 8).flatten().tolist())) == list(range(8))


def test_gradient_reaches_head_and_features_and_nothing_else(parts: Parts) -> None:
    parts.term().loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parts.head.parameters())
    assert parts.features.grad is not None
    assert parts.logits.grad is None
    assert all(p.grad is None for p in parts.dim.parameters())


def test_positives_and_negatives_get_no_gradient(parts: Parts) -> None:
    """A voxel too sure to be an anchor serves as negative and in the mean, and must not move."""
    with torch.no_grad():
        parts.logits[1] = 0
        parts.logits[1].scatter_(0, parts.label[1].unsqueeze(0), 100.0)
    parts.term().loss.backward()
    assert parts.features.grad is not None
    assert (parts.features.grad[1] == 0).all()
    assert parts.features.grad[0].abs().sum() > 0


def test_anchors_are_unsure_valid_voxels_of_their_class(parts: Parts) -> None:
    with torch.no_grad():
        parts.logits[0].zero_().scatter_(0, parts.label[0].unsqueeze(0), 100.0)
    parts.label[1, :2] = IGNORE
    _, (index, real) = parts.term()
    flat = parts.label.flatten()
    for c in range(CLASSES):
        chosen = index[c][real[c]]
        assert len(chosen) > 0
        assert (flat[chosen] == c).all()
        assert (chosen >= parts.label[0].numel() + parts.label[1, :2].numel()).all()


def test_the_loss_equals_one_made_anchor_by_anchor() -> None:
    """One voxel a class, so that nothing is left to chance but ξ, which is set."""
    torch.manual_seed(0)
    head = RepresentationHead(5, WIDTH, None)
    dim = DynamicInteraction(2, {3: WIDTH}, {3: 2}, config.Dim(prototypes=2, width=WIDTH, stages=(3,)))
    features = torch.randn(1, 5, 4, 4, 4)
    label = torch.full((1, 4, 4, 4), IGNORE)
    label[0, 0, 0, 0], label[0, 3, 3, 3] = 0, 1
    settings = config.Cps(anchors=1, negatives=4, xi=0.5, temperature=0.5)
    loss = cps_loss(features, torch.full((1, 2, 4, 4, 4), 0.5), label, head, dim, settings, generator()).loss
    v = head(features, torch.tensor([0, 63]))
    expected = []
    for own, other in ((0, 1), (1, 0)):
        positive = (v[own] + 0.5 * dim.prototypes[own].mean(0)) / 1.5
        s = F.cosine_similarity(v[own], positive, dim=0) / 0.5
        n = F.cosine_similarity(v[own], v[other], dim=0) / 0.5
        expected.append(torch.logsumexp(torch.stack([s, n, n, n, n]), 0) - s)
    torch.testing.assert_close(loss, torch.stack(expected).mean())


@pytest.mark.parametrize("label", [IGNORE, 0, 2])
def test_one_class_or_none_gives_zero_and_no_fault(parts: Parts, label: int) -> None:
    parts.label.fill_(label)
    loss = parts.term().loss
    loss.backward()
    assert loss == 0
    assert (parts.features.grad == 0).all()


def test_everybody_sure_gives_zero(parts: Parts) -> None:
    with torch.no_grad():
        parts.logits.zero_().scatter_(1, parts.label.unsqueeze(1), 100.0)
    assert parts.term().loss == 0


def test_fewer_voxels_than_anchors_and_negatives(parts: Parts) -> None:
    parts.settings = config.Cps(anchors=1000, negatives=2000)
    term = parts.term()
    assert torch.isfinite(term.loss)
    assert term.anchors.real_Ck.sum() <= parts.label.numel()


def test_same_seed_same_draw(parts: Parts) -> None:
    assert torch.equal(parts.term(1).loss, parts.term(1).loss)
    assert not torch.equal(parts.term(1).loss, parts.term(2).loss)


class Precise(RepresentationHead):
    """A head whose representations are float32 under autocast too, so that only the loss may differ."""

    def forward(self, features_BKDHW: Tensor, index_n: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().forward(features_BKDHW, index_n)


def test_under_autocast_the_loss_is_still_float32s(parts: Parts) -> None:
    parts.head = Precise(5, WIDTH, None)
    plain = parts.term().loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = parts.term().loss
    assert half.dtype == torch.float32
    assert torch.equal(half, plain)


def test_an_uncertain_voxel_is_pulled_towards_its_class() -> None:
    """Classes 0 and 1 look different; one voxel of class 1 looks like class 0 at first."""
    torch.manual_seed(0)
    head = RepresentationHead(2, WIDTH, 8)
    dim = DynamicInteraction(2, {3: WIDTH}, {3: 2}, config.Dim(prototypes=2, width=WIDTH, stages=(3,)))
    label = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    label[..., 4:] = 1
    look = torch.nn.functional.one_hot(label, 2).movedim(-1, 1).float() * 3
    odd = (0, slice(None), slice(3, 6), slice(3, 6), slice(5, 8))
    look[odd] = torch.tensor([3.0, 0.0]).view(2, 1, 1, 1)
    features = look.clone().requires_grad_()
    at = torch.tensor([4 * 64 + 4 * 8 + 6])
    optimiser = torch.optim.SGD([{"params": [features], "lr": 300.0}])

    def towards(c: int) -> float:
        with torch.no_grad():
            own = head(features, (label.flatten() == c).nonzero().flatten()).mean(0)
            return F.cosine_similarity(head(features, at)[0], own, dim=0).item()

    before = towards(1) - towards(0)
    settings = config.Cps(anchors=256, negatives=64, xi=0.0)
    for step in range(40):
        optimiser.zero_grad()
        probability = torch.full((1, 2, 8, 8, 8), 0.5)
        cps_loss(features, probability, label, head, dim, settings, generator(step)).loss.backward()
        optimiser.step()
    assert before < 0, "the toy starts on the wrong side"
    assert towards(1) - towards(0) > 0.5, "it ends on its own"
