"""Events and commands: round trips of every kind, forward compatibility, and honest failure."""

from __future__ import annotations

import json
import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from napari_crln import events
from napari_crln.events import (
    Checkpointed,
    Command,
    Continued,
    Ended,
    Event,
    Focus,
    LabelsChanged,
    LabelsTaken,
    Pause,
    Paused,
    PreviewBudget,
    Previewed,
    PreviewSimilarity,
    Resume,
    Started,
    Stepped,
    Stop,
    Suggested,
    Validated,
    Warned,
    dump_command,
    dump_line,
    parse_command,
    parse_event,
)

EVENTS: list[Event] = [
    Started(
        step=0,
        time=1.5,
        method="crln",
        iterations=10,
        pid=7,
        host="h",
        labelled=2,
        unlabelled=3,
        parameters=9,
    ),
    Stepped(step=10, interval=10, losses={"total": 0.5}, measures={"mu": 0.1}, learning_rate=1e-3, rate=2.0),
    Validated(step=10, dice=0.5, per_class={"body": 0.5}, per_volume={"a": 0.5}, best=True),
    Checkpointed(step=10, path="checkpoints/000010"),
    Previewed(step=10, generation=3, volume="a", maps=["clues"], region=((0, 1), (2, 3), (4, 5))),
    Suggested(step=10, count=20, surveyed=12, volumes=40),
    LabelsTaken(step=11, volume="a", revision=2),
    Paused(step=12),
    Continued(step=12),
    Warned(step=12, message="two\nlines, a \u2028 separator and ünïcode"),
    Ended(step=20, reason="finished", seconds=3.0),
]
COMMANDS: list[Command] = [
    Pause(),
    Resume(),
    Stop(),
    Focus(volume="a", axis=2, index=5, generation=1),
    PreviewBudget(share=0.2),
    PreviewSimilarity(prototype=3),
    LabelsChanged(volume="a", revision=4),
]
FLOATS = st.floats(allow_nan=True, allow_infinity=True)


def _kinds(union: object) -> set[type]:
    return set(get_args(get_args(union)[0]))


def test_the_examples_cover_every_kind() -> None:
    assert {type(e) for e in EVENTS} == _kinds(Event)
    assert {type(c) for c in COMMANDS} == _kinds(Command)


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: e.kind)
def test_event_round_trip(event: Event) -> None:
    line = dump_line(event)
    assert parse_event(line) == event
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line.decode().splitlines()) == 1 or event.kind == "warned"  # U+2028 splits str, not bytes
    assert json.loads(line)["kind"] == event.kind


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.command)
def test_command_round_trip(command: Command) -> None:
    assert parse_command(dump_command(command)) == command


@given(loss=FLOATS, rate=FLOATS, dice=FLOATS)
def test_any_float_survives_nan_and_infinity_included(loss: float, rate: float, dice: float) -> None:
    step = Stepped(
        step=1, interval=1, losses={"total": loss}, measures={"mu": dice}, learning_rate=0.1, rate=rate
    )
    again = parse_event(dump_line(step))
    assert isinstance(again, Stepped)
    for sent, got in ((loss, again.losses["total"]), (rate, again.rate), (dice, again.measures["mu"])):
        assert sent == got or (math.isnan(sent) and math.isnan(got))
    json.loads(dump_line(step), parse_constant=_refuse)


@given(message=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_stays_on_its_line(message: str) -> None:
    line = dump_line(Warned(step=0, message=message))
    assert line.count(b"\n") == 1
    assert parse_event(line) == Warned(step=0, message=message)


def test_unknown_kind_is_skipped_and_unknown_field_ignored() -> None:
    assert parse_event(b'{"kind": "telepathy", "step": 3}') is None
    assert parse_event(b'{"kind": "paused", "step": 3, "mood": "calm"}') == Paused(step=3)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b'{"kind": "paused", "st',
        b"not json",
        b"[1, 2]",
        b"3",
        b"null",
        b'{"step": 3}',
        b'{"kind": 5, "step": 3}',
        b'{"kind": "paused"}',
        b'{"kind": "paused", "step": -1}',
        b'{"kind": "ended", "step": 1, "reason": "bored"}',
        b'\xff{"kind": "paused", "step": 1}',
    ],
)
def test_malformed_line_raises_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_event(line)


@pytest.mark.parametrize(
    "data",
    [
        b'{"command": "dance"}',
        b"{}",
        b"x",
        b'{"command": "preview_budget", "share": 0.9}',
        b'{"command": "focus"}',
    ],
)
def test_unknown_or_malformed_command_raises_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_command(data)


def test_events_cannot_be_changed_after_the_fact() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        EVENTS[0].step = 5


def test_names_in_a_run_folder_are_fixed() -> None:
    """Older runs must stay readable: renaming one of these needs a new schema."""
    names = (events.CONFIG_FILE, events.EVENTS_FILE, events.ENVIRONMENT_FILE, events.LOCK_FILE)
    assert names == ("config.toml", "events.jsonl", "environment.json", "lock.json")
    assert (events.INBOX, events.CHECKPOINTS, events.PREVIEW) == ("inbox", "checkpoints", "preview.zarr")
    assert events.SCHEMA == 1


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
