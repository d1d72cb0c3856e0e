"""The panel's model tells each change once, in order."""

from __future__ import annotations

from itertools import pairwise

import pytest

from napari_crln.gui.model import PanelModel, Snapshot


@pytest.mark.parametrize("first", [True, False])
def test_what_a_listener_changes_is_told_after_the_change_that_it_heard_of(first: bool) -> None:
    """Whether it hears before or after the one that draws."""
    model, told = PanelModel(), list[tuple[Snapshot, Snapshot]]()

    def answer(now: Snapshot, old: Snapshot) -> None:
        if now.shown != old.shown:
            model.say("older")
            model.say(f"{now.shown} is shown")

    def draw(now: Snapshot, old: Snapshot) -> None:
        told.append((now, old))

    for listener in (answer, draw) if first else (draw, answer):
        model.changed.connect(listener)
    model.update(shown="a")
    assert [now.message.text for now, _ in told] == ["", "older", "a is shown"]
    assert all(after[1] is before[0] for before, after in pairwise(told))
    assert told[-1][0] is model.snapshot


def test_a_listener_that_fails_keeps_nobody_from_hearing_of_the_next_change() -> None:
    model, told = PanelModel(), list[str]()

    def fail(now: Snapshot) -> None:
        if now.shown == "a":
            model.say("never told")
            raise ValueError("a")

    def draw(now: Snapshot) -> None:
        told.append(now.shown)

    model.changed.connect(fail)
    model.changed.connect(draw)
    with pytest.raises(Exception, match="a"):
        model.update(shown="a")
    model.update(shown="b")
    assert told == ["b"]
