"""A run's view, folded from its events."""

from __future__ import annotations

import pytest

from napari_crln.events import (
    Checkpointed,
    Continued,
    Ended,
    Event,
    Paused,
    Previewed,
    Started,
    Stepped,
    Warned,
)
from napari_crln.gui.run_view import RunState, RunView, after


def started(step: int = 0, resumed: bool = False) -> Started:
    return Started(
        step=step, method="crln", iterations=100, pid=1, host="here", resumed=resumed,
        labelled=1, unlabelled=1, parameters=1,
    )  # fmt: skip


def stepped(step: int) -> Stepped:
    return Stepped(
        step=step,
        interval=1,
        losses={"total": 1.0},
        learning_rate=0.1,
        rate=2.0,
        remaining_s=5.0,
        memory_mb=9.0,
    )


def folded(*events: Event, state: RunState = "starting") -> RunView:
    view = RunView(state=state)
    for event in events:
        view = after(view, event)
    return view


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([started()], "training"),
        ([started(), stepped(3)], "training"),
        ([started(), Paused(step=3)], "paused"),
        ([started(), Paused(step=3), Continued(step=3)], "training"),
        ([started(), Ended(step=9, reason="finished")], "finished"),
        ([started(), Ended(step=9, reason="interrupted")], "stopped"),
        ([started(), Ended(step=9, reason="failed", message="out of memory")], "failed"),
        ([started(), Ended(step=9, reason="stopped"), started(9, resumed=True)], "training"),
    ],
)
def test_state_is_what_the_last_events_say(events: list[Event], state: RunState) -> None:
    assert folded(*events).state == state


@pytest.mark.parametrize("event", [started(), stepped(4), Paused(step=4), Continued(step=4)])
def test_a_run_that_was_told_to_stop_stays_stopping_until_it_has_ended(event: Event) -> None:
    assert folded(event, state="stopping").state == "stopping"
    assert folded(event, Ended(step=5, reason="stopped"), state="stopping").state == "stopped"


def test_a_report_does_not_undo_a_click_on_pause() -> None:
    assert folded(stepped(4), state="pausing").state == "pausing"


def test_progress_is_that_of_the_last_report() -> None:
    progress = folded(started(), stepped(7)).progress
    assert (progress.step, progress.iterations, progress.rate, progress.remaining_s) == (7, 100, 2.0, 5.0)


def test_a_warning_and_a_failure_are_noted() -> None:
    assert folded(started(), Warned(step=1, message="odd")).note == "odd"
    assert folded(Ended(step=1, reason="failed", message="why")).note == "why"


def test_previews_of_steps_that_a_resumed_run_does_again_are_forgotten() -> None:
    first = [Previewed(step=s, generation=g, volume="a", maps=[]) for g, s in ((1, 10), (2, 20))]
    view = folded(started(), *first, started(15, resumed=True))
    assert [p.generation for p in view.previews] == [1]


def test_a_checkpoint_makes_predicting_possible() -> None:
    assert not folded(started()).checkpointed
    assert folded(started(), Checkpointed(step=5, path="checkpoints/5")).checkpointed
    assert folded(started(5, resumed=True)).checkpointed
