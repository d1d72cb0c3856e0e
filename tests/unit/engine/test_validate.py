from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_crln.config import RunConfig
from napari_crln.engine.data import TrainingData
from napari_crln.engine.predict import Cancelled
from napari_crln.engine.state import TrainingState
from napari_crln.engine.validate import InferNetwork, validate
from napari_crln.types import IGNORE

Settings = Callable[..., RunConfig]
CPU = torch.device("cpu")
NAMES = ("background", "one", "two")


@pytest.fixture
def state(settings: Settings) -> TrainingState:
    return TrainingState.initial(settings("mean-teacher"), NAMES, CPU)


def _always(state: TrainingState, k: int) -> None:
    """A teacher that predicts class k everywhere."""
    output = state.learner.teacher.backbone.output
    with torch.no_grad():
        output.weight.zero_()
        output.bias.copy_(torch.nn.functional.one_hot(torch.tensor(k), 3).float())


def test_scores_are_dice_over_labelled_voxels_of_the_teacher(
    state: TrainingState, training_data: TrainingData, settings: Settings
) -> None:
    _always(state, 1)
    (case,) = training_data.validation
    assert case.target is not None
    target = case.target.copy()
    target[10:] = IGNORE
    event = validate(state, [replace(case, target=target)], settings("mean-teacher"), CPU)
    seen, ones = int((target != IGNORE).sum()), int((target == 1).sum())
    assert event.per_class["one"] == pytest.approx(2 * ones / (seen + ones))
    assert event.per_class["two"] == 0
    assert event.dice == pytest.approx(event.per_class["one"] / 2)
    assert event.best
    assert state.best_dice == event.dice


def test_what_is_neither_there_nor_found_is_no_score_and_no_best(
    state: TrainingState, training_data: TrainingData, settings: Settings
) -> None:
    _always(state, 0)
    (case,) = training_data.validation
    empty = replace(case, target=np.zeros(case.image.shape, np.int16))
    event = validate(state, [empty], settings("mean-teacher"), CPU)
    assert np.isnan(event.dice)
    assert not event.best
    assert state.best_dice == -1.0


def test_validation_can_be_broken_off(
    state: TrainingState, training_data: TrainingData, settings: Settings
) -> None:
    with pytest.raises(Cancelled):
        validate(state, training_data.validation, settings("mean-teacher"), CPU, lambda: True)


def test_predicting_without_clues_is_z_alone(settings: Settings) -> None:
    learner = TrainingState.initial(settings(), NAMES, CPU).learner
    x = torch.rand(1, 1, 16, 16, 16)
    by_default, alone = (
        InferNetwork(learner, settings())(x),
        InferNetwork(learner, settings(), clues=False)(x),
    )
    assert not torch.equal(by_default, alone)
    assert torch.equal(alone, learner.teacher(x).logits_BCDHW)
