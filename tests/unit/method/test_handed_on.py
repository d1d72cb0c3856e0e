"""What a step of CRLN hands to its losses, against the same by hand: the wiring between parts that are tested alone.

One step past `rectification.after`, strong view on, with clues strong enough to change labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from napari_crln.method import step as step_module
from napari_crln.method.learner import Batch, Learner, Randomness
from napari_crln.method.step import crln_step, weak_views
from napari_crln.method.views import apply_strong, strong_draws
from napari_crln.types import IGNORE

Build = Callable[..., Learner]
STEP = 3


class Seen(NamedTuple):
    """One step from outside."""

    learner: Learner
    #: z̄, M̄ and μ on the weak view.
    teacher: tuple[Tensor, Tensor, Tensor]
    #: Labels of the labelled weak view; the unlabelled weak view.
    weak: tuple[Tensor, Tensor]
    #: The student's logits of the joint batch.
    logits: Tensor
    #: Positional arguments of `consistency_loss` and of `cps_loss`.
    consistency: tuple[Any, ...]
    cps: tuple[Any, ...]

    def strong(self, label: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and confidences as the strong view of this step moves them."""
        settings, x_u = self.learner.settings.views, self.weak[1]
        draws = strong_draws(Randomness(0, STEP), len(x_u), (x_u.shape[-2], x_u.shape[-1]), settings)
        _, label_s, confidence_s = apply_strong(draws, x_u, label, confidence, settings)
        assert not torch.equal(label_s, label), "the view moves nothing, so nothing is tested"
        return label_s, confidence_s


@pytest.fixture
def look(learner: Build, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Seen]:
    """`look(section={...})`: one step with those settings of the method."""

    def noted(name: str) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []
        original = getattr(step_module, name)

        def note(*args: Any) -> Any:
            calls.append(args)
            return original(*args)

        monkeypatch.setattr(step_module, name, note)
        return calls

    def build(**method: Any) -> Seen:
        model = learner(method=method)
        with torch.no_grad():
            for head in model.teacher.dim.heads.values():  # type: ignore[union-attr]
                head.cross_class.weight.mul_(5)
        logits: list[Tensor] = []
        model.student.register_forward_hook(lambda _m, _x, out: logits.append(out.logits_BCDHW.detach()))
        consistency, cps = noted("consistency_loss"), noted("cps_loss")
        random = Randomness(0, STEP)
        random.seed_dropout()
        crln_step(model, batch, STEP, random)
        _, y_l, x_u, _ = weak_views(model, batch, Randomness(0, STEP))
        z, clues = model.teach(x_u)
        assert clues is not None
        teacher = (z.logits_BCDHW, clues.map_BCDHW, model.trust.mu.detach())
        return Seen(model, teacher, (y_l, x_u), logits[0], consistency[0], cps[0])

    return build


def by_hand(seen: Seen, on: str, confidence: str) -> tuple[Tensor, Tensor]:
    """ȳ_r and c as METHOD, step 3, and the two ablations have them."""
    z, m, mu = seen.teacher
    z_r = (z if on == "logits" else z.softmax(1)) + (1 - mu) * m
    c, label = (z_r / (2 - mu if confidence == "mean" else 1)).softmax(1).max(1)
    return label, c


@pytest.mark.parametrize("on", ["logits", "probabilities"])
@pytest.mark.parametrize("confidence", ["sum", "mean"])
def test_consistency_is_taught_the_rectified_labels_and_their_confidence(
    look: Callable[..., Seen], on: str, confidence: str
) -> None:
    seen = look(rectification={"on": on, "confidence": confidence})
    z_s, label, c, _ = seen.consistency
    expected = seen.strong(*by_hand(seen, on, confidence))
    assert torch.equal(label, expected[0])
    torch.testing.assert_close(c, expected[1])
    torch.testing.assert_close(z_s, seen.logits[2:])
    unrectified = seen.strong(*reversed(seen.teacher[0].softmax(1).max(1)))[1]
    assert (c - unrectified).abs().mean() > 0.02, "the clues change nothing, so nothing is tested"


@pytest.mark.parametrize("valid_confidence", [0.5, 0.7])
def test_cps_is_taught_the_sure_labels_that_the_strong_view_moved(
    look: Callable[..., Seen], valid_confidence: float
) -> None:
    seen = look(cps={"valid_confidence": valid_confidence})
    label_s, c_s = seen.strong(*by_hand(seen, "logits", "sum"))
    sure = torch.where(c_s >= valid_confidence, label_s, IGNORE)
    assert 0.05 < (sure != IGNORE).float().mean() < 0.95
    assert torch.equal(seen.cps[2], torch.cat([seen.weak[0].long(), sure]))


def test_cps_compares_the_students_softmax(look: Callable[..., Seen]) -> None:
    seen = look()
    torch.testing.assert_close(seen.cps[1], seen.logits.softmax(1))
    assert not seen.cps[1].requires_grad
