"""UA-MT by hand, with teachers that say the same of every voxel, so that the entropy is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from napari_crln.method import baselines
from napari_crln.method.baselines import ua_mt_step
from napari_crln.method.learner import Batch, Learner, Randomness, StepResult
from napari_crln.method.losses import softmax_mse
from napari_crln.method.step import weak_views

Build = Callable[..., Learner]
RAMP = 10


@pytest.fixture
def ua_mt(learner: Build) -> Build:
    """A learner whose teacher gives every voxel the same probabilities, whatever it sees."""

    def build(probability: tuple[float, float, float], **settings: float) -> Learner:
        model = learner("ua-mt", method={"ua_mt": {"ramp_up": RAMP, **settings}})
        with torch.no_grad():
            model.teacher.backbone.output.weight.zero_()
            model.teacher.backbone.output.bias.copy_(torch.tensor(probability).log())
        return model

    return build


def at(model: Learner, batch: Batch, step: int) -> StepResult:
    """The step's result, its random numbers the same at each step."""
    random = Randomness(0, 0)
    random.seed_dropout()
    return ua_mt_step(model, batch, step, random)


def test_the_threshold_ramps_up_from_three_quarters_of_ln_c_to_all_of_it(ua_mt: Build, batch: Batch) -> None:
    model = ua_mt((0.6, 0.2, 0.2))
    entropy = -(0.6 * math.log(0.6) + 0.4 * math.log(0.2))
    for step in range(RAMP + 1):
        threshold = 0.75 + 0.25 * math.exp(-5 * (1 - step / RAMP) ** 2)
        counts = entropy < threshold * math.log(3)
        assert at(model, batch, step).measures["confident"].item() == counts, step
    assert 0.75 < entropy / math.log(3) < 0.9, "it counts at no step, or at every one"


def test_up_to_ln_c_everything_counts_in_the_end(ua_mt: Build, batch: Batch) -> None:
    assert at(ua_mt((0.35, 0.35, 0.3)), batch, RAMP - 1).measures["confident"] == 0
    assert at(ua_mt((0.35, 0.35, 0.3)), batch, RAMP).measures["confident"] == 1


def test_the_weight_ramps_up(ua_mt: Build, batch: Batch) -> None:
    model = ua_mt((0.98, 0.01, 0.01), weight=0.3)
    full = at(model, batch, RAMP).terms["consistency"].item()
    for step in (0, 5):
        ramped = at(model, batch, step).terms["consistency"].item()
        assert ramped == pytest.approx(math.exp(-5 * (1 - step / RAMP) ** 2) * full, rel=1e-5)
    lighter = at(ua_mt((0.98, 0.01, 0.01), weight=0.1), batch, RAMP).terms["consistency"].item()
    assert full == pytest.approx(3 * lighter, rel=1e-5)


def test_what_padding_invented_does_not_count(
    ua_mt: Build, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Tensor] = []

    def note(student: Tensor, teacher: Tensor, keep: Tensor) -> Tensor:
        kept.append(keep)
        return softmax_mse(student, teacher, keep)

    monkeypatch.setattr(baselines, "softmax_mse", note)
    valid = batch.valid_u.clone()
    valid[0, :, 5:] = False
    padded = batch._replace(valid_u=valid)
    model = ua_mt((0.98, 0.01, 0.01))
    result = at(model, padded, 0)
    assert torch.equal(kept[0], weak_views(model, padded, Randomness(0, 0))[3])
    assert not kept[0].all()
    assert result.measures["confident"] == 1
    assert at(model, batch._replace(valid_u=valid & False), RAMP).terms["consistency"] == 0


def test_student_target_and_passes_see_noises_of_their_own(learner: Build, batch: Batch) -> None:
    model = learner("ua-mt", method={"ua_mt": {"noise_sigma": 0.05, "passes": 3}})
    by_student, by_teacher = (_inputs(m) for m in (model.student, model.teacher))
    at(model, batch, 0)
    x_l, _, x_u, _ = weak_views(model, batch, Randomness(0, 0))
    assert torch.equal(by_student[0][:2], x_l), "the labelled batch gets no noise"
    noises = [x - x_u for x in (by_student[0][2:], *by_teacher)]
    assert len(noises) == 5
    for noise in noises:
        assert noise.abs().max() <= 0.1 + 1e-6
        assert 0.04 < noise.std() < 0.05
    joined = torch.stack(noises).flatten(1)
    assert (torch.corrcoef(joined) - torch.eye(5)).abs().max() < 0.1


def _inputs(module: torch.nn.Module) -> list[Tensor]:
    found: list[Tensor] = []

    def note(_module: torch.nn.Module, given: tuple[Any, ...]) -> None:
        found.append(given[0])

    module.register_forward_pre_hook(note)
    return found
