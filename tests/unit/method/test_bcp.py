"""Bidirectional copy-paste by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from napari_crln.config import BidirectionalCopyPaste
from napari_crln.method.bcp import bcp_step, draw_box, largest_components, mixed_loss, paste
from napari_crln.method.learner import Batch, Learner, Randomness
from napari_crln.method.losses import supervised_loss
from napari_crln.method.step import weak_views
from napari_crln.types import IGNORE

Build = Callable[..., Learner]
X = torch.zeros(1, 1, 12, 16, 20)


def boxes(share: float, count: int) -> Tensor:
    settings = BidirectionalCopyPaste(share=share)
    return torch.stack([draw_box(Randomness(0, step), X, settings) for step in range(count)])


def test_boxes_have_their_size_and_lie_everywhere() -> None:
    masks = boxes(0.5, 300)
    assert (masks.flatten(1).sum(1) == 6 * 8 * 10).all()
    d, h, w = np.nonzero(masks[0].numpy())
    assert (np.ptp(d), np.ptp(h), np.ptp(w)) == (5, 7, 9)
    share = masks.float().mean(0)
    for plane in (share.amax((1, 2)), share.amax((0, 2)), share.amax((0, 1))):
        assert plane.min() > 0, "some border is never pasted over"
    assert share[6, 8, 10].item() == pytest.approx(6 / 7 * 8 / 9 * 10 / 11, abs=0.08)


def test_a_paste_takes_the_box_from_one_and_the_rest_from_the_other() -> None:
    box = boxes(0.5, 1)[0]
    one, other = torch.rand(2, 1, *box.shape), torch.rand(2, 1, *box.shape)
    mixed = paste(one, other, box)
    assert torch.equal(mixed[..., box], other[..., box])
    assert torch.equal(mixed[..., ~box], one[..., ~box])


def test_the_loss_is_weighted_by_region_and_blind_to_the_other_label() -> None:
    box = boxes(0.5, 1)[0]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, *box.shape, generator=generator)
    around, within = torch.randint(0, 3, (2, 2, *box.shape), generator=generator)
    loss = mixed_loss(logits, around, within, box, (1.0, 0.5))
    of_around = supervised_loss(logits, torch.where(box, IGNORE, around))
    of_within = supervised_loss(logits, torch.where(box, within, IGNORE))
    assert loss.item() == pytest.approx((of_around + 0.5 * of_within).item())
    hidden = torch.where(box, 2 - around, around)
    assert mixed_loss(logits, hidden, within, box, (1.0, 0.5)) == loss


def test_of_each_class_the_largest_component_stays() -> None:
    label = torch.zeros(2, 8, 8, 8, dtype=torch.long)
    label[0, :4, :4, :4] = 1
    label[0, 6, 6, 6] = 1
    label[0, 6:8, 0:2, 0:3] = 2
    label[0, 0, 7, 7] = 2
    kept = largest_components(label, 3)
    assert (kept[0] == 1).sum() == 64
    assert (kept[0] == 2).sum() == 12
    assert (kept[1] == 0).all()
    assert torch.equal(kept[kept > 0], label[kept > 0])


def test_cubes_that_touch_at_a_corner_are_one_component() -> None:
    """As in the published code; a third cube that lies apart is larger than either of the two."""
    label = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    label[0, 0:2, 0:2, 0:2] = 1
    label[0, 2:4, 2:4, 2:4] = 1
    label[0, 5:8, 5:8, 5:6] = 1
    kept = largest_components(label, 2)
    assert kept[0, :4, :4, :4].sum() == 16
    assert kept.sum() == 16


def seen_by_the_student(model: Learner, batch: Batch, step: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    seen: list[Tensor] = []
    forward = type(model.student).forward

    def note(self: object, x: Tensor) -> object:
        if self is model.student:
            seen.append(x)
        return forward(self, x)  # type: ignore[arg-type]

    monkeypatch.setattr(type(model.student), "forward", note)
    bcp_step(model, batch, step, Randomness(0, step))
    (x,) = seen
    return x


def test_both_ways_of_pasting_are_seen(learner: Build, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    model = learner("bcp")
    x = seen_by_the_student(model, batch, 0, monkeypatch)
    x_l, _, x_u, _ = weak_views(model, batch, Randomness(0, 0))
    box = draw_box(Randomness(0, 0), x_l, model.settings.bcp)
    assert len(x) == 4
    assert torch.equal(x[:2][..., box], x_u[..., box])
    assert torch.equal(x[:2][..., ~box], x_l[..., ~box])
    assert torch.equal(x[2:][..., box], x_l[..., box])
    assert torch.equal(x[2:][..., ~box], x_u.flip(0)[..., ~box])


def test_pretraining_sees_labelled_patches_alone(
    learner: Build, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = learner("bcp", method={"bcp": {"pretrain": 5}})
    x = seen_by_the_student(model, batch, 4, monkeypatch)
    x_l, *_ = weak_views(model, batch, Randomness(0, 4))
    assert len(x) == 2
    assert torch.isin(x, x_l).all()
    assert not torch.equal(x, x_l)
    poisoned = batch._replace(x_u=batch.x_u * torch.nan)
    assert torch.isfinite(bcp_step(model, poisoned, 4, Randomness(0, 4)).loss)
    assert not torch.isfinite(bcp_step(model, poisoned, 5, Randomness(0, 5)).loss)


def test_numbers_of_patches_may_differ(learner: Build, batch: Batch) -> None:
    for labelled, unlabelled in ((1, 2), (2, 1)):
        fewer = Batch(
            batch.x_l[:labelled], batch.y_l[:labelled], batch.x_u[:unlabelled], batch.valid_u[:unlabelled]
        )
        assert torch.isfinite(bcp_step(learner("bcp"), fewer, 0, Randomness(0, 0)).loss)


def test_components_are_measured_and_can_be_left(learner: Build, batch: Batch) -> None:
    changed = {}
    for how in (True, False):
        model = learner("bcp", method={"bcp": {"largest_component": how}})
        with torch.no_grad():  # foreground is rare, so that it falls into pieces
            model.teacher.backbone.output.bias[0] += 1.0
        changed[how] = bcp_step(model, batch, 0, Randomness(0, 0)).measures["changed"].item()
    assert changed[False] == 0
    assert 0 < changed[True] < 1


class Watched:
    """One step of BCP with α = 0.3: its terms, and by hand what they are made from."""

    def __init__(self, model: Learner, batch: Batch, step: int) -> None:
        logits: list[Tensor] = []
        model.student.register_forward_hook(lambda _m, _x, out: logits.append(out.logits_BCDHW))
        random = Randomness(0, step)
        random.seed_dropout()
        result = bcp_step(model, batch, step, random)
        (self.logits,) = logits
        self.terms = {name: term.item() for name, term in result.terms.items()}
        x_l, self.y_l, x_u, self.valid_u = weak_views(model, batch, random)
        self.box = draw_box(random, x_l, model.settings.bcp)
        self.y_u = model.teach(x_u)[0].logits_BCDHW.argmax(1).masked_fill(~self.valid_u, IGNORE)
        assert not torch.equal(self.y_u[0], self.y_u[1])

    def loss(self, logits: Tensor, label: Tensor, inside: bool) -> float:
        return supervised_loss(logits, label.masked_fill(self.box != inside, IGNORE)).item()


@pytest.mark.parametrize("padded", [False, True])
def test_each_voxel_is_taught_what_was_pasted_there_with_its_weight(
    learner: Build, batch: Batch, padded: bool
) -> None:
    """Inward, the teacher's labels are in the box; outward, around it, and of another patch."""
    if padded:
        batch.valid_u[0, 6:] = False
    model = learner("bcp", method={"bcp": {"weight": 0.3, "largest_component": False}})
    seen = Watched(model, batch, 0)
    assert (seen.y_u == IGNORE).any() == padded
    z_in, z_out = seen.logits.split(2)
    inward = seen.loss(z_in, seen.y_l, inside=False) + 0.3 * seen.loss(z_in, seen.y_u, inside=True)
    outward = 0.3 * seen.loss(z_out, seen.y_u.flip(0), inside=False) + seen.loss(z_out, seen.y_l, inside=True)
    assert seen.terms == pytest.approx({"inward": inward, "outward": outward}, rel=1e-5)


def test_pretraining_teaches_the_labels_of_both_patches(learner: Build, batch: Batch) -> None:
    model = learner("bcp", method={"bcp": {"pretrain": 5}})
    seen = Watched(model, batch, 4)
    mixed = seen.y_l.clone()
    mixed[:, seen.box] = seen.y_l.flip(0)[:, seen.box]
    assert seen.terms == pytest.approx({"supervised": supervised_loss(seen.logits, mixed).item()}, rel=1e-5)
