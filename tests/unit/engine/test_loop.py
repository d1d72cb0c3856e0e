"""The loop from outside: its events, its commands, and every way out."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from napari_crln import events
from napari_crln.config import RunConfig
from napari_crln.engine import checkpoint, loop
from napari_crln.engine.data import TrainingData
from napari_crln.engine.guard import StepGuard
from napari_crln.engine.loop import Trainer
from napari_crln.errors import CorruptCheckpoint, RunError, TrainingDiverged
from napari_crln.events import parse_event
from napari_crln.lock import Lock
from napari_crln.method.baselines import STEPS
from napari_crln.method.learner import Batch, Learner, Randomness, StepResult
from napari_crln.method.step import crln_step
from napari_crln.nn.model import CrlnModel
from napari_crln.run.watch import send

Settings = Callable[..., RunConfig]
Make = Callable[..., Trainer]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def make(training_data: TrainingData, settings: Settings, folder: Path) -> Make:
    """`make(section={...})`: a trainer of the tiny run in `folder`."""

    def build(method: str = "mean-teacher", /, **sections: Any) -> Trainer:
        plain = {"device": "cpu", "log_every": 1, "checkpoint_every": 1000, "preview_share": 0.0}
        engine = plain | sections.pop("engine", {})
        return Trainer(training_data, settings(method, engine=engine, **sections), folder)

    return build


def logged(folder: Path) -> list[events.Event]:
    lines = (folder / events.EVENTS_FILE).read_bytes().splitlines(keepends=True)
    return [event for line in lines if (event := parse_event(line)) is not None]


def kinds(seen: list[events.Event]) -> list[str]:
    return [event.kind for event in seen]


def saved_steps(folder: Path) -> list[int]:
    return sorted(int(p.name[5:]) for p in (folder / events.CHECKPOINTS).glob("step-*"))


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.state.learner.student.named_parameters()}


def test_a_run_from_start_to_end(make: Make, folder: Path) -> None:
    yielded = list(make("crln", iterations=4))
    assert kinds(yielded) == ["started", *["stepped"] * 4, "checkpointed", "ended"]
    assert kinds(logged(folder)) == kinds(yielded)
    assert isinstance(yielded[-1], events.Ended)
    assert (yielded[-1].reason, yielded[-1].step) == ("finished", 4)
    assert saved_steps(folder) == [4]


def test_the_start_says_what_is_trained(make: Make) -> None:
    trainer = make("crln", iterations=1)
    started = next(iter(trainer))
    assert isinstance(started, events.Started)
    assert (started.method, started.iterations, started.resumed) == ("crln", 1, False)
    assert (started.labelled, started.unlabelled, started.pid) == (2, 2, os.getpid())
    assert started.parameters == sum(p.numel() for p in trainer.state.learner.student.parameters())


def test_stepped_events_have_all_that_curves_need(make: Make) -> None:
    trainer = make("crln", iterations=4, engine={"log_every": 2})
    stepped = [e for e in trainer if isinstance(e, events.Stepped)]
    assert [(e.step, e.interval) for e in stepped] == [(2, 2), (4, 2)]
    for event in stepped:
        assert set(event.losses) == {"total", "supervised", "consistency", "clues", "cps"}
        assert event.losses["total"] == pytest.approx(
            sum(v for k, v in event.losses.items() if k != "total"), rel=1e-4
        )
        assert {"mu", "changed", "confident", "agreement", "gradient_norm"} <= set(event.measures)
        assert all(math.isfinite(v) for v in (*event.losses.values(), *event.measures.values()))
        assert event.rate > 0
        assert 0 <= event.data_wait <= 1
        assert event.memory_mb > 0
    assert stepped[0].learning_rate == pytest.approx(0.05 * (3 / 4) ** 0.9)
    assert stepped[1].remaining_s == 0


def test_losses_told_are_means_over_the_interval(make: Make, tmp_path: Path, folder: Path) -> None:
    singly = [e for e in make(iterations=3) if isinstance(e, events.Stepped)]
    folder.rename(tmp_path / "first")
    folder.mkdir()
    (together,) = (e for e in make(iterations=3, engine={"log_every": 3}) if isinstance(e, events.Stepped))
    mean = sum(e.losses["supervised"] for e in singly) / 3
    assert together.losses["supervised"] == pytest.approx(mean, rel=1e-5)


def test_validation_marks_the_best_and_keeps_its_checkpoint(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = iter([0.2, 0.6, 0.5, 0.4])

    def score(*_: object) -> list[float]:
        value = next(dice)
        return [value, value]

    monkeypatch.setattr("napari_crln.engine.validate._score", score)
    trainer = make(iterations=4, engine={"validate_every": 1, "keep": 1})
    validated = [e for e in trainer if isinstance(e, events.Validated)]
    assert [(e.step, e.dice, e.best) for e in validated] == [
        (1, 0.2, True),
        (2, 0.6, True),
        (3, 0.5, False),
        (4, 0.4, False),
    ]
    assert validated[0].per_class == {"one": 0.2, "two": 0.2}
    assert validated[0].per_volume == {"v": 0.2}
    assert saved_steps(folder) == [2, 4]
    best = checkpoint.best(folder / events.CHECKPOINTS)
    assert best is not None
    assert (best.step, best.state["best_dice"]) == (2, 0.6)


def test_validating_changes_nothing_of_what_is_learned(make: Make, folder: Path, tmp_path: Path) -> None:
    plain = make(iterations=3)
    list(plain)
    folder.rename(tmp_path / "first")
    folder.mkdir()
    checked = make(iterations=3, engine={"validate_every": 1})
    validated = [e for e in list(checked) if isinstance(e, events.Validated)]
    assert len(validated) == 3
    assert all(0 <= e.dice <= 1 for e in validated)
    other = weights(checked)
    assert all(torch.equal(w, other[n]) for n, w in weights(plain).items())


def test_closing_the_iterator_midway_leaves_a_checkpoint(make: Make, folder: Path) -> None:
    trainer = make()
    for event in trainer:
        if event.step == 2:
            break
    ended = logged(folder)[-1]
    assert isinstance(ended, events.Ended)
    assert (ended.step, ended.reason) == (2, "stopped")
    assert saved_steps(folder) == [2]
    with Lock(folder):
        pass  # it was let go of


def test_a_resumed_run_says_so_and_ends_at_once_if_it_is_done(make: Make) -> None:
    list(make(iterations=2))
    again = list(make(iterations=2))
    assert kinds(again) == ["started", "ended"]
    assert isinstance(again[0], events.Started)
    assert again[0].resumed


def test_pause_resume_and_stop_through_the_inbox(make: Make, folder: Path) -> None:
    """The commands come from another thread, as from a viewer; the loop runs here."""
    running, paused, continued = threading.Event(), threading.Event(), threading.Event()

    def steer() -> None:
        running.wait(60)
        send(folder, events.Pause())
        paused.wait(60)
        send(folder, events.Resume())
        continued.wait(60)
        send(folder, events.Stop())

    thread = threading.Thread(target=steer)
    thread.start()
    flags: dict[type, threading.Event] = {
        events.Stepped: running, events.Paused: paused, events.Continued: continued
    }  # fmt: skip
    seen = []
    for event in make(iterations=100_000):
        seen.append(event)
        if type(event) in flags:
            flags[type(event)].set()
    thread.join(60)
    order = [k for k in kinds(seen) if k not in {"stepped", "started"}]
    assert order[:3] == ["checkpointed", "paused", "continued"]
    assert order[-1] == "ended"
    at = kinds(seen).index("paused")
    assert seen[at].step == seen[at + 1].step, "it went on training while paused"
    assert isinstance(seen[-1], events.Ended)
    assert seen[-1].reason == "stopped"
    assert saved_steps(folder)[-1] == seen[-1].step
    assert not list((folder / events.INBOX).glob("*.json")), "a command that was obeyed is left"


def test_a_stop_from_before_the_start_is_dropped_with_a_warning(make: Make, folder: Path) -> None:
    send(folder, events.Stop())
    seen = list(make(iterations=1))
    assert isinstance(seen[-1], events.Ended)
    assert seen[-1].reason == "finished"
    assert any(isinstance(e, events.Warned) and "stop" in e.message for e in seen)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_in_a_checkpoint_within_one_step(make: Make, folder: Path, number: int) -> None:
    seen = []
    former = signal.getsignal(number)
    for event in make(iterations=100_000):
        seen.append(event)
        if event.kind == "stepped" and event.step == 2:
            os.kill(os.getpid(), number)
    assert isinstance(seen[-1], events.Ended)
    assert seen[-1].reason == "interrupted"
    assert seen[-1].step <= 3
    assert saved_steps(folder) == [seen[-1].step]
    assert signal.getsignal(number) is former


def test_a_signal_while_paused_ends_too(make: Make, folder: Path) -> None:
    seen = []
    for event in make(iterations=100_000):
        seen.append(event)
        if event.kind == "stepped" and event.step == 1:
            send(folder, events.Pause())
        if event.kind == "paused":
            os.kill(os.getpid(), signal.SIGTERM)
    assert isinstance(seen[-1], events.Ended)
    assert seen[-1].reason == "interrupted"


def _poison(monkeypatch: pytest.MonkeyPatch, at: int, times: float = torch.nan) -> None:
    original = loop.STEPS["mean-teacher"]

    def step(learner: Learner, batch: Any, number: int, random: Any) -> Any:
        result = original(learner, batch, number, random)
        if number == at:
            result.loss = result.loss * times
        return result

    monkeypatch.setitem(loop.STEPS, "mean-teacher", step)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_divergence_moves_no_weight_and_ends_as_failed(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    _poison(monkeypatch, at=2, times=value)
    trainer = make()
    iterator, kept = iter(trainer), {}
    for _ in range(3):  # started, and two steps
        event = next(iterator)
        kept[event.step] = weights(trainer)
    with pytest.raises(TrainingDiverged, match="iteration 2"):
        next(iterator)
    now = weights(trainer)
    assert all(torch.equal(w, now[n]) for n, w in kept[2].items())
    ended = logged(folder)[-1]
    assert isinstance(ended, events.Ended)
    assert (ended.step, ended.reason) == (2, "failed")
    assert "learning rate below 0.05" in ended.message
    found, _ = checkpoint.latest(folder / events.CHECKPOINTS)
    assert found is not None
    assert found.step == 2
    name = next(iter(kept[2]))
    assert torch.equal(found.tensors["student"][name], kept[2][name])


def test_weights_of_a_blow_up_are_not_what_a_run_goes_on_from(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.STEPS["mean-teacher"]

    def step(learner: Learner, batch: Any, number: int, random: Any) -> Any:
        result = original(learner, batch, number, random)
        if number >= 2:
            result.loss = result.loss * (1e3 if number == 2 else torch.nan)
        return result

    monkeypatch.setitem(loop.STEPS, "mean-teacher", step)
    with pytest.raises(TrainingDiverged, match="iteration 3"):
        list(make(engine={"checkpoint_every": 2, "log_every": 1}))
    found, _ = checkpoint.latest(folder / events.CHECKPOINTS)
    assert found is not None
    assert found.step == 2, "the one before the loss grew a thousandfold"


def test_divergence_at_the_very_first_step_saves_sound_momentum(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _poison(monkeypatch, at=0)
    with pytest.raises(TrainingDiverged):
        list(make())
    found, _ = checkpoint.latest(folder / events.CHECKPOINTS)
    assert found is not None
    assert all((m == 0).all() for m in found.tensors["optimiser"].values())


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_with_deferred_verdicts_a_non_finite_step_moves_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """As on a GPU, where the loop goes on and learns of it later: no weight, statistic, teacher nor μ."""
    trainer = make("crln", method={"teacher": {"mode": mode}})
    learner = trainer.state.learner
    trainer._guard = StepGuard(learner.watched(), True, lambda found, step: ValueError(f"{found} at {step}"))
    moved = []
    for factor in (1.0, 1.0, math.nan, math.inf, 1.0):
        weight = learner.student.backbone.output.weight
        hook = weight.register_hook(lambda gradient, factor=factor: gradient * factor)
        before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
        trainer._step()
        hook.remove()
        moved.append([n for n, tensor in learner.state_dict().items() if not torch.equal(tensor, before[n])])
    assert moved[2] == moved[3] == []
    for good in (moved[0], moved[1], moved[4]):
        assert {"trust.a", "teacher.backbone.output.weight", "student.backbone.output.weight"} <= set(good)
    with pytest.raises(ValueError, match="at 2"):
        list(trainer._flush())


def test_a_fault_between_optimiser_and_teacher_saves_no_half_step(
    make: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("broken")

    trainer = make(engine={"checkpoint_every": 2})
    iterator = iter(trainer)
    for event in iterator:
        if event.kind == "checkpointed":
            break
    next(iterator)
    monkeypatch.setattr(Learner, "after_step", fail)
    with pytest.raises(OSError, match="broken"):
        list(iterator)
    assert saved_steps(folder) == [2]
    ended = logged(folder)[-1]
    assert isinstance(ended, events.Ended)
    assert (ended.reason, ended.message) == ("failed", "broken")


@pytest.mark.parametrize("resumed", [False, True])
def test_a_run_that_halved_its_patch_looks_through_windows_of_it(
    make: Make, monkeypatch: pytest.MonkeyPatch, resumed: bool
) -> None:
    """In validation, previews and suggestions: configured windows may not fit either, and are not what was trained on."""

    def step(learner: Learner, batch: Batch, number: int, random: Randomness) -> StepResult:
        if batch.x_l.numel() > 2 * 16**3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return crln_step(learner, batch, number, random)

    def note(teacher: CrlnModel, inputs: tuple[torch.Tensor]) -> None:
        if not teacher.training and not learning:
            seen.add(tuple(inputs[0].shape[2:]))

    monkeypatch.setitem(STEPS, "mean-teacher", step)
    engine = {"on_out_of_memory": "halve", "validate_every": 1, "preview_share": 0.5, "suggestion_share": 0.5}
    sections = {"batches": {"patch": [16, 32, 32], "labelled": 1, "unlabelled": 1}, "engine": engine}
    trainer = make(iterations=2, **sections)
    if resumed:
        list(trainer)
        trainer = make(iterations=4, **sections)
    seen: set[tuple[int, ...]] = set()
    learning = False
    genuine = trainer._step

    def learn() -> float:
        nonlocal learning
        learning = True
        try:
            return genuine()
        finally:
            learning = False

    monkeypatch.setattr(trainer, "_step", learn)
    trainer.state.learner.teacher.register_forward_pre_hook(note)
    found = kinds(list(trainer))
    assert {"validated", "previewed"} <= set(found)
    assert trainer.state.fitted == {"patch": [16, 16, 32], "labelled": 1, "unlabelled": 1}
    assert seen == {(16, 16, 32)}


def test_a_folder_in_use_is_refused_and_left_alone(make: Make, folder: Path) -> None:
    with Lock(folder), pytest.raises(RunError):
        list(make())
    assert not (folder / events.EVENTS_FILE).exists()
    assert not (folder / events.CHECKPOINTS).exists()


def test_where_every_checkpoint_is_damaged_nothing_starts_over(make: Make, folder: Path) -> None:
    list(make(iterations=2))
    (damaged,) = (folder / events.CHECKPOINTS).glob("step-*")
    (damaged / "student.safetensors").write_bytes(b"")
    for _ in range(2):  # the second time as the first: the failure itself must not make a checkpoint
        with pytest.raises(CorruptCheckpoint, match="none of 1 checkpoints"):
            list(make(iterations=2))
    assert saved_steps(folder) == [2]


def test_an_older_checkpoint_is_taken_with_a_warning_where_the_newest_is_damaged(
    make: Make, folder: Path
) -> None:
    list(make(iterations=4, engine={"checkpoint_every": 2}))
    newest = folder / events.CHECKPOINTS / "step-00000004" / "student.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    seen = list(make(iterations=4))
    assert any(isinstance(e, events.Warned) and "skipped" in e.message for e in seen)
    assert [e.step for e in seen if isinstance(e, events.Stepped)] == [3, 4]


def test_a_full_disk_at_the_end_does_not_hide_the_fault(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    _poison(monkeypatch, at=1)
    trainer = make()

    def full(*_: object, **__: object) -> Iterator[None]:
        raise OSError(28, "No space left on device")

    iterator = iter(trainer)
    next(iterator)
    next(iterator)
    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(TrainingDiverged):
        list(iterator)
