"""Voxels that nobody annotated have no say: every term that labels enter, perturbed where there is no label.

Images there do matter, as context of convolutions and of DIM's attention: what is perturbed is what a term compares
with labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from napari_crln import config
from napari_crln.method.baselines import STEPS
from napari_crln.method.cps import cps_loss, valid_labels
from napari_crln.method.learner import Batch, Learner, Randomness
from napari_crln.method.losses import supervised_loss
from napari_crln.method.rectify import Trust
from napari_crln.nn.dim import DynamicInteraction
from napari_crln.nn.model import RepresentationHead
from napari_crln.types import IGNORE

Build = Callable[..., Learner]
SIZE = (2, 8, 9, 10)
METHODS = ("supervised", "mean-teacher", "ua-mt", "cutmix", "bcp", "crln")


@pytest.fixture(params=["plane D", "plane H", "plane W", "scribble"])
def sparse(request: pytest.FixtureRequest) -> Tensor:
    """Targets (B, D, H, W) with a slice of each orientation, or a few voxels, annotated."""
    generator = torch.Generator().manual_seed(1)
    full = torch.randint(0, 3, SIZE, generator=generator).to(torch.int16)
    keep = torch.zeros(SIZE, dtype=torch.bool)
    where: dict[str, Any] = {
        "plane D": (slice(None), 3), "plane H": (slice(None), slice(None), 4),
        "plane W": (slice(None), slice(None), slice(None), 5), "scribble": (0, 2, slice(1, 8), 6),
    }  # fmt: skip
    keep[where[request.param]] = True
    return torch.where(keep, full, IGNORE)


def perturbed(values_BCDHW: Tensor, target: Tensor) -> Tensor:
    """Other values where nothing is annotated."""
    other = torch.randn(values_BCDHW.shape, generator=torch.Generator().manual_seed(9)) * 5
    return torch.where((target == IGNORE).unsqueeze(1), other, values_BCDHW)


def test_supervised_losses_of_logits_and_of_clues(sparse: Tensor) -> None:
    z = torch.randn(2, 3, *SIZE[1:], requires_grad=True)
    loss = supervised_loss(z, sparse)
    assert torch.equal(loss, supervised_loss(perturbed(z, sparse), sparse))
    (gradient,) = torch.autograd.grad(loss, z)
    reached = (gradient != 0).any(1)
    assert torch.equal(reached, sparse != IGNORE), "each annotated voxel teaches, and no other"


def test_the_fit_of_mu(sparse: Tensor) -> None:
    def fitted(z: Tensor, m: Tensor) -> float:
        trust = Trust(config.Rectification(mu_initial=0.5, mu_learning_rate=1.0))
        trust.fit(z, m, sparse)
        return trust.a.item()

    z, m = torch.randn(2, 2, 3, *SIZE[1:])
    assert fitted(z, m) == fitted(perturbed(z, sparse), perturbed(m, sparse))
    assert fitted(z, m) != fitted(z, -m)


def test_cps_draws_neither_anchors_nor_members_there(sparse: Tensor) -> None:
    torch.manual_seed(0)
    head = RepresentationHead(5, 4, None)
    dim = DynamicInteraction(3, {3: 4}, {3: 2}, config.Dim(prototypes=2, width=4, stages=(3,)))
    unsure = torch.full(SIZE, 0.1)
    label = valid_labels(sparse, torch.zeros(SIZE, dtype=torch.long), unsure, config.Cps())
    assert torch.equal(label != IGNORE, torch.cat([sparse != IGNORE, torch.zeros(SIZE, dtype=torch.bool)]))

    def term(features: Tensor, logits: Tensor) -> Tensor:
        settings = config.Cps(anchors=64, negatives=64)
        generator = torch.Generator().manual_seed(0)
        return cps_loss(features, logits.softmax(1), label, head, dim, settings, generator).loss

    # A voxel's representation is of its 3×3×3 neighbourhood: features further off than that may be anything.
    near = F.max_pool3d((label != IGNORE).float().unsqueeze(1), 3, 1, 1)[:, 0] > 0
    far_target = torch.where(near, 0, IGNORE)
    features, logits = torch.randn(4, 5, *SIZE[1:]), torch.randn(4, 3, *SIZE[1:])
    loss = term(features, logits)
    assert loss > 0
    assert not near.all()
    torch.testing.assert_close(loss, term(perturbed(features, far_target), perturbed(logits, label)))


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_that_nobody_annotated_trains_with_finite_numbers(
    learner: Build, batch: Batch, method: str
) -> None:
    model = learner(method)
    empty = batch._replace(y_l=torch.full_like(batch.y_l, IGNORE))
    optimiser = torch.optim.SGD(model.student.parameters(), lr=0.05)
    for step in range(4):
        random = Randomness(0, step)
        random.seed_dropout()
        result = STEPS[method](model, empty, step, random)
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
        model.after_step(result, step)
        assert math.isfinite(result.loss.item())
    assert all(p.isfinite().all() for p in model.parameters())
    if method != "bcp":  # its terms mix labels and pseudo-labels
        assert result.terms["supervised"] == 0


def test_one_annotated_slice_is_learned(learner: Build, batch: Batch) -> None:
    """One slice of sixteen is enough to learn from."""
    model = learner("supervised", method={"views": {"flip": [], "rot90": False}})
    y = torch.full_like(batch.y_l, IGNORE)
    y[:, 7] = batch.y_l[:, 7]
    one = batch._replace(y_l=y)
    optimiser = torch.optim.SGD(model.student.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(12):
        result = STEPS["supervised"](model, one, step, Randomness(0, step))
        optimiser.zero_grad()
        result.loss.backward()
        optimiser.step()
        losses.append(result.loss.item())
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
