from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_crln import config
from napari_crln.engine import fitting
from napari_crln.engine.fitting import does_not_fit, largest_that_fits, smaller
from napari_crln.engine.state import TrainingState
from napari_crln.method.learner import Batch, Learner, Randomness, StepResult

STRIDE = (16, 16, 16)
CPU = torch.device("cpu")
sides = st.integers(1, 8).map(lambda n: 16 * n)


def voxels(sizes: config.Batches) -> int:
    return (sizes.labelled + sizes.unlabelled) * prod(sizes.patch)


@given(st.tuples(sides, sides, sides), st.integers(1, 9), st.integers(1, 9))
def test_each_size_is_a_legal_step_and_takes_less_than_the_one_before(
    patch: tuple[int, int, int], labelled: int, unlabelled: int
) -> None:
    first = config.Batches(patch=patch, labelled=labelled, unlabelled=unlabelled, foreground=0.25)
    found = [first, *smaller(first, STRIDE)]
    for before, after in pairwise(found):
        assert voxels(after) < voxels(before)
        assert min(after.labelled, after.unlabelled) >= 1
        assert all(side % 16 == 0 and 16 <= side <= old for side, old in zip(after.patch, patch, strict=True))
        assert min(after.labelled, after.unlabelled) * prod(after.patch) >= 2 * 16**3
        assert after.foreground == 0.25
        config.Batches.model_validate(after.model_dump())


def test_the_batch_shrinks_before_the_patch_and_its_longest_side_first() -> None:
    tried = [
        (s.labelled, s.unlabelled, s.patch)
        for s in smaller(config.Batches(patch=(32, 64, 48), labelled=3), STRIDE)
    ]
    assert tried[:4] == [
        (2, 1, (32, 64, 48)),
        (1, 1, (32, 64, 48)),
        (1, 1, (32, 32, 48)),
        (1, 1, (32, 32, 16)),
    ]


@pytest.fixture
def state(settings: Callable[..., config.RunConfig]) -> tuple[TrainingState, config.RunConfig]:
    made = settings("mean-teacher", batches={"patch": [32, 32, 32]})
    return TrainingState.initial(made, ("background", "one", "two"), CPU), made


def test_what_fits_is_tried_and_nothing_of_the_run_moves(
    state: tuple[TrainingState, config.RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, settings = state
    genuine, tried = fitting.STEPS["mean-teacher"], []

    def step(learner: Learner, batch: Batch, number: int, random: Randomness) -> StepResult:
        tried.append((tuple(batch.x_l.shape), tuple(batch.x_u.shape)))
        if batch.x_l.numel() > 32 * 32 * 16:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return genuine(learner, batch, number, random)

    monkeypatch.setitem(fitting.STEPS, "mean-teacher", step)
    before = {name: tensor.clone() for name, tensor in made.learner.state_dict().items()}
    found = largest_that_fits(made.learner, settings, CPU, 0)
    assert found is not None
    assert (found.labelled, found.unlabelled, found.patch) == (1, 1, (16, 32, 32))
    assert tried == [((1, 1, 32, 32, 32),) * 2, ((1, 1, 16, 32, 32),) * 2]
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.learner.state_dict().items())
    assert all(p.grad is None for p in made.learner.parameters())


def test_a_fault_that_is_not_of_memory_is_not_taken_for_one(
    state: tuple[TrainingState, config.RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object) -> StepResult:
        raise RuntimeError("a bug")

    monkeypatch.setitem(fitting.STEPS, "mean-teacher", step)
    with pytest.raises(RuntimeError, match="a bug"):
        largest_that_fits(state[0].learner, state[1], CPU, 0)


@pytest.mark.parametrize("method", ["supervised", "ua-mt", "crln"])
def test_every_method_can_be_tried(settings: Callable[..., config.RunConfig], method: str) -> None:
    made = settings(method, batches={"patch": [32, 32, 32]})
    state = TrainingState.initial(made, ("background", "one", "two"), CPU)
    found = largest_that_fits(state.learner, made, CPU, 5)
    assert found is not None
    assert (found.labelled, found.unlabelled) == (1, 1)


def test_the_error_names_both_sizes_and_the_options() -> None:
    error = does_not_fit(config.Batches(), config.Batches(patch=(48, 48, 48), labelled=1, unlabelled=1))
    assert "2 + 2 patches of 80 × 112 × 112 voxels does not fit" in str(error)
    assert "1 + 1 patches of 48 × 48 × 48 voxels would fit" in str(error)
    assert "--set batches.patch=[48,48,48]" in error.remedy
    assert "base_filters" in does_not_fit(config.Batches(), None).remedy
