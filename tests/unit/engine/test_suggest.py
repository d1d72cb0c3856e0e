"""Suggestions of a tiny run: published whole, within the budget, never of what is annotated, and not felt by training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_crln import config, events
from napari_crln.engine import suggest as suggest_module
from napari_crln.engine.cohort import Case
from napari_crln.engine.data import TrainingData
from napari_crln.engine.loop import Trainer
from napari_crln.engine.state import TrainingState
from napari_crln.engine.suggest import Suggester, suggest
from napari_crln.run.suggestions import read_suggestions
from napari_crln.run.watch import send
from napari_crln.suggestions import Suggestions
from napari_crln.types import IGNORE

Settings = Callable[..., config.RunConfig]
CPU = torch.device("cpu")


class Clock:
    """Time that passes by 1 s for each batch of tiles, and when a test says so."""

    def __init__(self) -> None:
        self.time = self.looking = 0.0
        self.looks = 0

    def __call__(self) -> float:
        return self.time

    def look(self) -> None:
        self.time += 1.0
        self.looking += 1.0
        self.looks += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock, original = Clock(), suggest_module.slice_belief

    def timed(*arguments: Any) -> Any:
        clock.look()
        return original(*arguments)

    monkeypatch.setattr(suggest_module, "slice_belief", timed)
    return clock


@pytest.fixture
def sparse(training_data: TrainingData) -> TrainingData:
    """No volume annotated whole: slices 1 and 9 of the first, 0-2 of the second."""
    first, second = training_data.labelled
    target = np.full(first.target.shape, IGNORE, np.int16)
    target[[1, 9]] = first.target[[1, 9]]
    return replace(training_data, labelled=[replace(first, target=target), second])


def _suggester(
    data: TrainingData, settings: config.RunConfig, folder: Path, clock: Clock, step: int = 5
) -> Suggester:
    state = TrainingState.initial(settings, data.class_names, CPU)
    state.step = step
    return Suggester(state, data, settings, folder, clock=clock)


def _until_idle(suggester: Suggester) -> list[events.Event]:
    found: list[events.Event] = []
    for _ in range(200):
        before = len(found)
        found += suggester.while_paused()
        if not suggester._has_work() and len(found) == before:
            return found
    raise AssertionError("never idle")


def _published(folder: Path) -> Suggestions:
    found = read_suggestions(folder)
    assert found is not None
    return found


def test_a_round_surveys_all_that_may_be_trained_on_and_publishes(
    sparse: TrainingData, settings: Settings, tmp_path: Path, clock: Clock
) -> None:
    made = _until_idle(_suggester(sparse, settings(), tmp_path, clock))
    found = _published(tmp_path)
    assert isinstance(made[-1], events.Suggested)
    assert (made[-1].count, made[-1].surveyed, made[-1].volumes) == (len(found.items), 4, 4)
    assert (found.step, found.note) == (5, "")
    assert {item.volume for item in found.items} <= {"a", "b", "c", "d"}, "not the validation volume"
    assert {item.volume for item in found.items} & {"c", "d"}
    for item in found.items:
        assert (item.volume, item.index) not in {("a", 1), ("a", 9), ("b", 0), ("b", 1), ("b", 2)}
        assert item.disagreement is not None
        assert "unsure of" in item.why
        assert "less like annotated" in item.why
    assert sorted(item.volume for item in found.items[:4]) == ["a", "a", "b", "b"], "begun volumes first"
    assert all(0 < item.score <= 1 for item in found.items)


@pytest.mark.parametrize(
    ("method", "step", "note"),
    [("mean-teacher", 5, "does not rectify"), ("crln", 1, "begins at iteration 2"), ("crln", 2, "")],
)
def test_what_the_ranking_has_to_do_without_is_said(
    sparse: TrainingData, settings: Settings, tmp_path: Path, clock: Clock, method: str, step: int, note: str
) -> None:
    _until_idle(_suggester(sparse, settings(method), tmp_path, clock, step))
    found = _published(tmp_path)
    assert note in found.note
    assert bool(found.note) == bool(note)
    assert all((item.disagreement is None) == bool(note) for item in found.items)


def test_new_labels_are_heeded_at_once_without_looking_again(
    sparse: TrainingData, settings: Settings, tmp_path: Path, clock: Clock
) -> None:
    suggester = _suggester(sparse, settings(), tmp_path, clock)
    _until_idle(suggester)
    best, looks = _published(tmp_path).items[0], clock.looks
    case = next(c for c in (*sparse.labelled, *sparse.unlabelled) if c.name == best.volume)
    target = np.full(case.image.shape, IGNORE, np.int16) if case.target is None else case.target.copy()
    target[best.index] = 0
    suggester.relabel(case.name, target)
    (event,) = _until_idle(suggester)
    assert isinstance(event, events.Suggested)
    assert clock.looks == looks
    places = [(item.volume, item.index) for item in _published(tmp_path).items]
    assert (best.volume, best.index) not in places


def test_new_labels_are_heeded_in_debt_too(
    sparse: TrainingData, settings: Settings, tmp_path: Path, clock: Clock
) -> None:
    suggester = _suggester(sparse, settings(), tmp_path, clock)
    _until_idle(suggester)
    suggester.budget.spend(1000.0)
    assert list(suggester.after_step(1.0)) == []
    suggester.relabel("a", sparse.labelled[0].target)
    assert [e.kind for e in suggester.after_step(1.0)] == ["suggested"]
    suggester.relabel("a", sparse.labelled[0].target)
    suggester.budget.share = 0.0
    assert list(suggester.after_step(1.0)) == []


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_budget_holds_is_used_and_a_step_waits_for_one_tile_at_most(
    sparse: TrainingData, settings: Settings, tmp_path: Path, clock: Clock, share: float
) -> None:
    """300 steps of 1 s by the clock; a batch of tiles takes 1 s."""
    suggester = _suggester(sparse, settings(engine={"preview_share": share}), tmp_path, clock)
    for step in range(1, 301):
        suggester._state.step = step
        clock.time += 1.0
        before = clock.looks
        list(suggester.after_step(1.0))
        assert clock.looks - before <= 1
        assert clock.looking <= max(2.0, share * step) + 1.0, "2 s in advance, which are paid for"
        if step <= 2:
            assert clock.looks == step, "the first list comes early"
    assert clock.looking >= 0.9 * share * 300


def test_a_new_share_takes_effect_and_none_means_none(
    sparse: TrainingData, settings: Settings, tmp_path: Path, clock: Clock
) -> None:
    suggester = _suggester(sparse, settings(engine={"preview_share": 0.0}), tmp_path, clock)
    for _ in range(50):
        list(suggester.after_step(1.0))
        list(suggester.while_paused())
    assert clock.looks == 0
    suggester.budget.share = 0.5
    for _ in range(50):
        list(suggester.after_step(1.0))
    assert clock.looks > 0


def test_a_list_comes_before_a_long_round_is_over(
    training_data: TrainingData, settings: Settings, tmp_path: Path, clock: Clock
) -> None:
    case = training_data.unlabelled[0]
    many = replace(training_data, unlabelled=[replace(case, name=f"u{n:02}") for n in range(40)])
    suggester = _suggester(many, settings(), tmp_path, clock)
    first = next(e for e in iter(lambda: next(suggester.while_paused(), None), 0) if e is not None)
    assert isinstance(first, events.Suggested)
    assert 10 <= first.surveyed < 42
    rest = _until_idle(suggester)
    assert [e.surveyed for e in rest if isinstance(e, events.Suggested)][-1] == 42


def test_the_same_weights_are_not_surveyed_twice(
    sparse: TrainingData, settings: Settings, tmp_path: Path, clock: Clock
) -> None:
    suggester = _suggester(sparse, settings(), tmp_path, clock)
    assert _until_idle(suggester)
    clock.time += 1000
    assert _until_idle(suggester) == []
    suggester._state.step += 1
    assert _until_idle(suggester)


def test_a_fault_is_told_once_leaves_the_old_list_and_rests(
    sparse: TrainingData, settings: Settings, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    suggester = _suggester(sparse, settings(), tmp_path, clock)
    _until_idle(suggester)
    before = (tmp_path / events.SUGGESTIONS_FILE).read_bytes()

    def fail(*_: object, **__: object) -> Any:
        raise OSError("disk on fire")

    with monkeypatch.context() as broken:
        broken.setattr(suggest_module.durable, "replace", fail)
        made: list[events.Event] = []
        for _ in range(300):
            suggester._state.step += 1
            clock.time += 1.0
            made += suggester.after_step(100.0)
    (warned,) = made
    assert isinstance(warned, events.Warned)
    assert "disk on fire" in warned.message
    assert (tmp_path / events.SUGGESTIONS_FILE).read_bytes() == before
    clock.time += 100
    assert any(isinstance(e, events.Suggested) for e in _until_idle(suggester))


def test_publication_is_atomic(
    sparse: TrainingData, settings: Settings, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is read at any moment of writing is a whole list, the old one or the new one."""
    suggester = _suggester(sparse, settings(), tmp_path, clock)
    _until_idle(suggester)
    old, seen = _published(tmp_path), []
    rename = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append(_published(tmp_path))
        moved = rename(self, target)
        seen.append(_published(tmp_path))
        return moved

    monkeypatch.setattr(Path, "replace", watched)
    suggester._state.step += 1
    clock.time += 100
    _until_idle(suggester)
    assert seen[0] == old
    assert seen[1].step == old.step + 1
    assert [p.name for p in tmp_path.iterdir()] == [events.SUGGESTIONS_FILE]


def test_training_is_bit_identical_with_and_without(
    sparse: TrainingData, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suggest_module, "_ROUND_S", 0.0)
    kept: list[dict[str, torch.Tensor]] = []
    for count in (0, 5):
        folder = tmp_path / str(count)
        folder.mkdir()
        engine = {"preview_share": 0.5, "suggestions": count, "suggestion_share": 1.0, "device": "cpu"}
        made = settings(iterations=8, engine=engine, method={"teacher": {"mode": "train"}})
        trainer = Trainer(sparse, made, folder)
        seen = list(trainer)
        assert any(isinstance(e, events.Suggested) for e in seen) == (count > 0)
        groups = trainer.state.snapshot().tensors
        kept.append({f"{g}.{k}": v for g, group in groups.items() for k, v in group.items()})
    assert kept[0].keys() == kept[1].keys()
    assert all(torch.equal(tensor, kept[1][name]) for name, tensor in kept[0].items())


def test_a_paused_run_suggests_and_a_budget_of_nothing_ends_it(
    sparse: TrainingData, settings: Settings, tmp_path: Path
) -> None:
    run: Iterator[events.Event] = iter(Trainer(sparse, settings(iterations=10_000), tmp_path))
    next(run)
    send(tmp_path, events.Pause())
    found = next(e for e in run if isinstance(e, events.Suggested) and e.surveyed == 4)
    assert found.volumes == 4
    send(tmp_path, events.Stop())
    assert isinstance(list(run)[-1], events.Ended)


def test_from_a_learner_each_volume_is_looked_at_once_and_the_axis_is_heeded(
    sparse: TrainingData, settings: Settings
) -> None:
    made = settings()
    state = TrainingState.initial(made, sparse.class_names, CPU)
    told: list[str] = []

    def ask(axes: tuple[int, ...] | None) -> Suggestions:
        volumes: list[tuple[Case, Any]] = [(c, c.target) for c in (*sparse.labelled, *sparse.unlabelled)]
        return suggest(state.learner, made, volumes, step=9, count=6, axes=axes, progress=told.append)

    found = ask((2,))
    assert told == ["a", "b", "c", "d"]
    assert {item.axis for item in found.items} == {2}
    assert ask((2,)).items == found.items, "determinism"
    assert {item.axis for item in ask((0, 1, 2)).items} > {0}
    assert {item.axis for item in ask(None).items} == {0}


@pytest.mark.parametrize(("engine", "parts"), [({}, (0.7, 0.3)), ({"suggestions": 0}, (1.0, 0.0))])
def test_previews_and_suggestions_share_one_budget(
    sparse: TrainingData,
    settings: Settings,
    tmp_path: Path,
    engine: dict[str, int],
    parts: tuple[float, float],
) -> None:
    trainer = Trainer(sparse, settings(engine=engine), tmp_path)
    list(trainer._look_about(10.0))
    earned = [worker.budget._earned_s for worker in (trainer._previewer, trainer._suggester)]
    assert earned == pytest.approx([0.05 * 10.0 * part for part in parts], abs=0.01)
