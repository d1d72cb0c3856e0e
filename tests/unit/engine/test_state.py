"""Resume, bit for bit: the state saved and restored is all that training changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from napari_crln import events
from napari_crln.config import RunConfig
from napari_crln.engine import checkpoint
from napari_crln.engine.data import TrainingData
from napari_crln.engine.loop import Trainer
from napari_crln.engine.state import TrainingState, load_learner
from napari_crln.engine.update import descend
from napari_crln.errors import ConfigError, RunError

Settings = Callable[..., RunConfig]
CPU = torch.device("cpu")
NAMES = ("background", "one", "two")


def run(trainer: Trainer, until: int | None = None) -> dict[str, torch.Tensor]:
    """Train, to the end or until a step is reported; return every tensor of the state."""
    for event in trainer:
        if isinstance(event, events.Stepped) and event.step == until:
            break
    tensors = trainer.state.snapshot().tensors
    return {f"{g}.{n}": t.detach().clone() for g, group in tensors.items() for n, t in group.items()}


@pytest.mark.parametrize("method", ["crln", "ua-mt"])
def test_stopped_and_resumed_is_bit_identical_to_unbroken(
    training_data: TrainingData, settings: Settings, tmp_path: Path, method: str
) -> None:
    configured = settings(method)
    for name in ("unbroken", "resumed"):
        (tmp_path / name).mkdir()
    unbroken = run(Trainer(training_data, configured, tmp_path / "unbroken"))
    run(Trainer(training_data, configured, tmp_path / "resumed"), until=3)
    torch.manual_seed(99)  # what the process has drawn since must not matter
    resumed = run(Trainer(training_data, configured, tmp_path / "resumed"))
    assert [name for name in unbroken if not torch.equal(unbroken[name], resumed[name])] == []
    if method == "crln":
        groups = {"student.dim.prototypes", "teacher.dim.prototypes", "trust.a", "optimiser.dim.prototypes"}
        assert groups <= set(unbroken)
    first = TrainingState.initial(configured, NAMES, CPU).snapshot().tensors["student"]
    assert not torch.equal(first["backbone.output.weight"], unbroken["student.backbone.output.weight"])


def test_weights_follow_the_seed_and_global_random_state_is_left_alone(settings: Settings) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = TrainingState.initial(settings(), NAMES, CPU).learner.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    same = TrainingState.initial(settings(), NAMES, CPU).learner.state_dict()
    other = TrainingState.initial(settings(seed=1), NAMES, CPU).learner.state_dict()
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["student.dim.prototypes"], other["student.dim.prototypes"])


def test_a_snapshot_holds_what_restore_needs(settings: Settings, tmp_path: Path) -> None:
    state = TrainingState.initial(settings(), NAMES, CPU)
    with torch.no_grad():
        for value in (*state.learner.state_dict().values(),):
            value.add_(1)
        for buffers in state.optimiser.state.values():
            buffers["momentum_buffer"].normal_()
    state.step, state.best_dice = 7, 0.5
    checkpoint.save(tmp_path, state.snapshot(), keep=1)
    fresh = TrainingState.initial(settings(seed=5), NAMES, CPU)
    found, _ = checkpoint.latest(tmp_path)
    assert found is not None
    fresh.restore(found)
    assert (fresh.step, fresh.best_dice) == (7, 0.5)
    for mine, theirs in zip(
        fresh.snapshot().tensors.values(), state.snapshot().tensors.values(), strict=True
    ):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[n], theirs[n]) for n in mine)
    load_learner(fresh.learner, found)
    weight = fresh.learner.student.backbone.output.weight
    assert weight.data_ptr() != fresh.learner.teacher.backbone.output.weight.data_ptr()


def test_a_skipped_first_step_leaves_sound_momentum(settings: Settings) -> None:
    """The fused optimiser itself would leave it uninitialised."""
    state = TrainingState.initial(settings(), NAMES, CPU)
    momentum = state.snapshot().tensors["optimiser"]
    assert set(momentum) == {n for n, _ in state.learner.student.named_parameters()}
    assert all((m == 0).all() for m in momentum.values())


def test_other_classes_are_refused(settings: Settings) -> None:
    state = TrainingState.initial(settings(), NAMES, CPU)
    snapshot = state.snapshot()
    other = replace(snapshot, state={**snapshot.state, "class_names": ["background", "x", "y"]})
    with pytest.raises(RunError, match="trained on classes background, x, y"):
        state.restore(other)


def test_a_patch_that_the_network_cannot_take_is_refused_with_sizes_that_fit(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="32 or 48"):
        TrainingState.initial(settings(batches={"patch": [16, 40, 16]}), NAMES, CPU)


def test_without_momentum_there_is_none_to_save(settings: Settings) -> None:
    state = TrainingState.initial(settings(optimiser={"momentum": 0.0}), NAMES, CPU)
    assert state.snapshot().tensors["optimiser"] == {}


def test_decay_may_spare_all_but_kernels(settings: Settings) -> None:
    options = settings(optimiser={"decay": "kernels", "weight_decay": 0.1})
    state = TrainingState.initial(options, NAMES, CPU)
    decayed, spared = state.optimiser.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in state.learner.student.named_parameters()}
    assert all(names[id(p)].endswith("weight") and p.ndim > 1 for p in decayed["params"])
    assert "dim.prototypes" in {names[id(p)] for p in spared["params"]}
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


@pytest.mark.parametrize("fused", ["on", "off"])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.5, "weight_decay": 0.1}])
def test_two_steps_of_the_optimiser_by_hand(
    settings: Settings, fused: str, options: dict[str, float]
) -> None:
    """SGD with Nesterov momentum: v ← m v + (g + λ θ), θ ← θ - lr (g + λ θ + m v); the paper's m and λ by default."""
    momentum, decay = options.get("momentum", 0.9), options.get("weight_decay", 5e-4)
    state = TrainingState.initial(settings(optimiser=options, engine={"fused": fused}), NAMES, CPU)
    parameters = list(state.learner.student.parameters())
    expected = [p.detach().double() for p in parameters]
    velocity = [torch.zeros_like(p) for p in expected]
    for slope, rate in ((1e-3, 0.3), (-2e-3, 0.2)):  # as small as the penalty, so that both are seen
        descend(state.optimiser, torch.stack([slope * p.sum() for p in parameters]).sum(), rate, None)
        for k, theta in enumerate(expected):
            gradient = slope + decay * theta
            velocity[k] = momentum * velocity[k] + gradient
            expected[k] = theta - rate * (gradient + momentum * velocity[k])
    for mine, theirs in zip(parameters, expected, strict=True):
        torch.testing.assert_close(mine.detach().double(), theirs, rtol=1e-6, atol=1e-7)
