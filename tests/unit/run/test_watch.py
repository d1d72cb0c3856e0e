from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from napari_crln.engine.control import EventLog, Inbox
from napari_crln.errors import RunError
from napari_crln.events import Ended, Event, Focus, Pause, Paused, Resume, Stop, Warned, dump_line
from napari_crln.run.watch import Tail, follow, send


def paused(*steps: int) -> bytes:
    return b"".join(dump_line(Paused(step=step)) for step in steps)


def until_idle(events: Iterator[Event | None]) -> list[int]:
    steps = []
    while (event := next(events)) is not None:
        steps.append(event.step)
    return steps


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_events_come_once_and_none_when_there_is_nothing_new(tmp_path: Path, log: Path) -> None:
    events = follow(tmp_path, poll_s=0)
    assert next(events) is None  # not even a log yet
    log.write_bytes(paused(1, 2))
    assert until_idle(events) == [1, 2]
    assert next(events) is None
    append(log, paused(3))
    assert until_idle(events) == [3]


def test_from_now_on_only(tmp_path: Path, log: Path) -> None:
    log.write_bytes(paused(1, 2))
    events = follow(tmp_path, from_start=False, poll_s=0)
    assert next(events) is None
    append(log, paused(3))
    assert until_idle(events) == [3]


def test_a_line_is_taken_only_when_whole(tmp_path: Path, log: Path) -> None:
    events, line = follow(tmp_path, poll_s=0), paused(123)
    for cut in range(len(line)):
        append(log, line[cut : cut + 1])
        assert until_idle(events) == ([123] if cut == len(line) - 1 else [])


def test_a_torn_line_that_resume_cuts_off_is_not_joined_with_the_next(tmp_path: Path, log: Path) -> None:
    log.write_bytes(paused(1) + paused(2)[:-7])
    events = follow(tmp_path, poll_s=0)
    assert until_idle(events) == [1]
    with EventLog(tmp_path) as resumed:
        resumed.append(Warned(step=3, message="longer than what was torn" * 9))
        assert until_idle(events) == [3]


def test_a_log_cut_back_is_followed_from_its_end(tmp_path: Path, log: Path) -> None:
    log.write_bytes(paused(1, 2, 3))
    events = follow(tmp_path, poll_s=0)
    assert until_idle(events) == [1, 2, 3]
    log.write_bytes(paused(1, 2)[:-3])
    assert until_idle(events) == []
    log.write_bytes(paused(1, 7))
    assert until_idle(events) == [7]


def test_a_log_replaced_by_another_is_followed_from_its_start(tmp_path: Path, log: Path) -> None:
    for other in (paused(9), paused(9, 10, 11, 12)):
        log.write_bytes(paused(1, 2, 3))
        events = follow(tmp_path, poll_s=0)
        until_idle(events)
        log.write_bytes(other)
        assert until_idle(events) == ([9] if other == paused(9) else [9, 10, 11, 12])


def test_a_log_cut_back_and_grown_past_the_mark_is_read_anew_not_from_its_middle(
    tmp_path: Path, log: Path
) -> None:
    log.write_bytes(paused(1, 2, 3))
    events = follow(tmp_path, poll_s=0)
    until_idle(events)
    log.write_bytes(paused(1, 2) + dump_line(Warned(step=5, message="x" * 300)))
    assert until_idle(events) == [1, 2, 5]


def test_a_file_system_that_vanishes_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    append(folder / "events.jsonl", paused(1))
    events = follow(folder, poll_s=0)
    assert until_idle(events) == [1]
    folder.rename(tmp_path / "away")
    gone = [next(events) for _ in range(4)]
    assert isinstance(gone[0], Warned)
    assert "mount cannot be read (No such file or directory): waiting" in gone[0].message
    assert gone[1:] == [None, None, None], "told once"
    append(tmp_path / "away" / "events.jsonl", paused(2))
    (tmp_path / "away").rename(folder)
    assert until_idle(events) == [2, 2]


def test_damaged_lines_are_told_and_unknown_kinds_passed_over(tmp_path: Path, log: Path) -> None:
    log.write_bytes(paused(4) + b'\0\0not json\n{"kind":"future","step":5}\n' + paused(6))
    events = follow(tmp_path, poll_s=0)
    assert next(events) == Paused(step=4)
    warning = next(events)
    assert isinstance(warning, Warned)
    assert warning.step == 4
    assert "damaged" in warning.message
    assert until_idle(events) == [6]


def test_it_ends_after_the_end_only_if_asked_and_not_before_what_follows(tmp_path: Path, log: Path) -> None:
    end = dump_line(Ended(step=2, reason="stopped"))
    log.write_bytes(paused(1) + end + paused(3) + end)
    assert [event.step for event in follow(tmp_path, until_ended=True) if event] == [1, 2, 3, 2]
    events = follow(tmp_path, poll_s=0)
    assert until_idle(events) == [1, 2, 3, 2]
    assert [next(events), next(events)] == [None, None]


def test_a_line_longer_than_a_block(tmp_path: Path, log: Path) -> None:
    log.write_bytes(paused(1) + dump_line(Warned(step=2, message="x" * 2_000_000)) + paused(3))
    assert until_idle(follow(tmp_path, poll_s=0)) == [1, 2, 3]


def test_a_hundred_thousand_events_in_bounded_memory(tmp_path: Path, log: Path) -> None:
    with log.open("wb") as file:
        for start in range(0, 100_000, 1000):
            file.write(paused(*range(start, start + 1000)))
    assert log.stat().st_size > 4_000_000
    begin = time.process_time()
    assert sum(1 for _ in _until_none(follow(tmp_path, poll_s=0))) == 100_000
    assert time.process_time() - begin < 5
    tracemalloc.start()
    try:
        assert sum(1 for _ in Tail(log).lines()) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def _until_none(events: Iterator[Event | None]) -> Iterator[Event]:
    for event in events:
        if event is None:
            return
        yield event


def test_commands_arrive_in_the_order_sent(tmp_path: Path) -> None:
    commands = [Pause(), Resume(), *(Focus(volume="v", generation=n) for n in range(30)), Stop()]
    for command in commands:
        send(tmp_path, command)
    assert Inbox(tmp_path).poll() == commands


def test_a_clock_set_back_does_not_reorder_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send(tmp_path, Pause())
    monkeypatch.setattr(time, "time_ns", lambda: 1000)
    send(tmp_path, Resume())
    send(tmp_path, Stop())
    assert Inbox(tmp_path).poll() == [Pause(), Resume(), Stop()]


def test_commands_only_go_to_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere"):
        send(tmp_path / "nowhere", Stop())
    assert list(tmp_path.iterdir()) == []
