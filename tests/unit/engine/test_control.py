from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from napari_crln.engine.control import COMMAND_LIMIT, EventLog, Inbox, Interrupts
from napari_crln.errors import OutOfSpace
from napari_crln.events import (
    Focus,
    LabelsChanged,
    Pause,
    Paused,
    Resume,
    Stepped,
    Stop,
    Warned,
    dump_command,
    parse_event,
)


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path)


def put(folder: Path, name: str, data: bytes) -> None:
    (folder / "inbox" / name).write_bytes(data)


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_events_are_lines_in_order_with_the_time_of_writing(tmp_path: Path) -> None:
    before = time.time()
    with EventLog(tmp_path) as log:
        log.append(Paused(step=3, time=1.0))
        log.append(Warned(step=2, message="two\nlines"))
        log.sync()
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    events = [parse_event(line) for line in lines]
    assert [event.step for event in events if event] == [3, 2]
    assert isinstance(events[1], Warned)
    assert events[1].message == "two\nlines"
    assert all(before <= event.time <= time.time() for event in events if event)


def test_losses_that_are_not_finite_survive_the_log(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.append(
            Stepped(step=1, interval=1, losses={"total": float("inf")}, learning_rate=0.1, rate=float("nan"))
        )
    event = parse_event((tmp_path / "events.jsonl").read_bytes())
    assert isinstance(event, Stepped)
    assert event.losses["total"] == float("inf")
    assert event.rate != event.rate


@pytest.mark.parametrize("whole", [b"", b'{"kind":"paused","step":1}\n'])
@pytest.mark.parametrize("torn", [b"", b'{"kind":"pau', b"\0" * 200_000])
def test_opening_cuts_a_torn_last_line_and_nothing_else(tmp_path: Path, whole: bytes, torn: bytes) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(whole + torn)
    with EventLog(tmp_path) as log:
        assert log.repaired == len(torn)
        assert path.read_bytes() == whole
        log.append(Paused(step=2))
    lines = path.read_bytes()[len(whole) :].splitlines()
    assert [parse_event(line) is not None for line in lines] == [True]


def test_a_line_that_does_not_fit_on_the_disk_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventLog(tmp_path) as log:
        log.append(Paused(step=1))
        before = (tmp_path / "events.jsonl").read_bytes()
        write = os.write

        def short(handle: int, data: bytes) -> int:
            return write(handle, data[:5])

        monkeypatch.setattr(os, "write", short)
        with pytest.raises(OutOfSpace):
            log.append(Paused(step=2))
        monkeypatch.undo()
        assert (tmp_path / "events.jsonl").read_bytes() == before
        log.append(Paused(step=3))
    assert len((tmp_path / "events.jsonl").read_bytes().splitlines()) == 2


def test_another_fault_of_the_disk_is_not_taken_for_a_full_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(handle: int, data: bytes) -> int:
        raise OSError(errno.EIO, "bad sector")

    with EventLog(tmp_path) as log:
        monkeypatch.setattr(os, "write", broken)
        with pytest.raises(OSError, match="bad sector"):
            log.append(Paused(step=2))
        monkeypatch.undo()


def test_commands_come_in_name_order_each_once_and_stay_until_done(tmp_path: Path, inbox: Inbox) -> None:
    put(tmp_path, "2.json", dump_command(Stop()))
    put(tmp_path, "1.json", dump_command(Focus(volume="a", index=4)))
    assert inbox.poll() == [Focus(volume="a", index=4), Stop()]
    assert listed(tmp_path / "inbox") == ["1.json", "2.json"]
    inbox.done()
    assert listed(tmp_path / "inbox") == []
    assert inbox.poll() == []
    put(tmp_path, "1.json", dump_command(Pause()))
    assert inbox.poll() == [Pause()]
    assert inbox.poll() == []
    assert inbox.warnings() == []


def test_a_command_not_acted_on_before_a_crash_is_there_for_the_next_process(
    tmp_path: Path, inbox: Inbox
) -> None:
    put(tmp_path, "1.json", dump_command(LabelsChanged(volume="a", revision=2)))
    inbox.poll()
    assert Inbox(tmp_path).poll() == [LabelsChanged(volume="a", revision=2)]


def test_a_command_that_cannot_be_deleted_is_not_obeyed_twice(
    tmp_path: Path, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "read-only")

    put(tmp_path, "1.json", dump_command(Stop()))
    monkeypatch.setattr(Path, "unlink", denied)
    assert inbox.poll() == [Stop()]
    assert inbox.poll() == []


def _oversized(path: Path) -> None:
    path.write_bytes(dump_command(Stop()) + b" " * COMMAND_LIMIT)


def _link(path: Path) -> None:
    target = path.parents[1] / "elsewhere.json"
    target.write_bytes(dump_command(Stop()))
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.json", lambda path: path.write_bytes(b"{")),
        ("a.json", lambda path: path.write_bytes(b"\xff\xfe")),
        ("a.json", lambda path: path.write_bytes(b'{"command":"format_disk"}')),
        ("a.json", lambda path: path.write_bytes(b'{"command":"preview_budget","share":7}')),
        ("a.txt", lambda path: path.write_bytes(dump_command(Stop()))),
        ("a.json", _oversized),
        ("a.json", _link),
        ("a.json", os.mkfifo),
        ("a.json", os.mkdir),
    ],
)
def test_what_is_no_command_is_moved_away_and_reported(
    tmp_path: Path, inbox: Inbox, name: str, make: object
) -> None:
    assert callable(make)
    make(tmp_path / "inbox" / name)
    put(tmp_path, "b.json", dump_command(Pause()))
    assert inbox.poll() == [Pause()]
    (message,) = inbox.warnings()
    assert f"inbox/{name}" in message
    assert inbox.warnings() == []
    assert listed(tmp_path / "inbox" / "refused") == [name]
    assert inbox.poll() == []


def test_refused_files_of_one_name_are_all_kept(tmp_path: Path, inbox: Inbox) -> None:
    for content in (b"first", b"second", b"third"):
        put(tmp_path, "a.json", content)
        inbox.poll()
    kept = {path.read_bytes() for path in (tmp_path / "inbox" / "refused").iterdir()}
    assert kept == {b"first", b"second", b"third"}


def test_what_is_being_written_aside_is_left_alone(tmp_path: Path, inbox: Inbox) -> None:
    put(tmp_path, ".tmp-1.json-abc", b"{")
    assert inbox.poll() == []
    assert inbox.warnings() == []
    assert listed(tmp_path / "inbox") == [".tmp-1.json-abc"]


def test_commands_to_an_earlier_process_do_not_stop_the_next(tmp_path: Path, inbox: Inbox) -> None:
    for name, command in (("1", Stop()), ("2", Focus(volume="v")), ("3", Pause()), ("4", Resume())):
        put(tmp_path, f"{name}.json", dump_command(command))
    inbox.drop_stale()
    assert len(inbox.warnings()) == 3
    assert inbox.poll() == [Focus(volume="v")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_asks_to_stop_and_the_former_handler_comes_back(number: signal.Signals) -> None:
    former = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert not interrupts.stop_requested
        signal.raise_signal(number)
        assert interrupts.stop_requested
        assert interrupts.signal_name == number.name
    assert signal.getsignal(number) is former


def test_a_second_ctrl_c_interrupts_at_once_but_sigterm_before_it_does_not_count() -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell started the tests in the background
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert interrupts.stop_requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_nothing_is_touched() -> None:
    former, seen = signal.getsignal(signal.SIGTERM), []

    def enter() -> None:
        with Interrupts() as interrupts:
            seen.append((signal.getsignal(signal.SIGTERM), interrupts.stop_requested))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(former, False)]
