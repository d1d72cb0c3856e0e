"""The event log against a plain list, with writers that crash in the middle of a line."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from napari_crln.engine.control import EventLog
from napari_crln.events import Event, Warned, dump_line
from napari_crln.run.watch import follow

MESSAGES = st.text(max_size=40) | st.integers(0, 3000).map(lambda n: "é" * n)


class TornLog(RuleBasedStateMachine):
    """`written` is what complete lines say; `seen` what a follower got, however writes and looks interleave."""

    def __init__(self) -> None:
        super().__init__()
        self._scratch = tempfile.TemporaryDirectory()
        self.folder = Path(self._scratch.name)
        self.path = self.folder / "events.jsonl"
        self.log: EventLog | None = EventLog(self.folder)
        self.written: list[str] = []
        self.seen: list[str] = []
        self.events: Iterator[Event | None] = follow(self.folder, poll_s=0)

    @precondition(lambda self: self.log is not None)
    @rule(message=MESSAGES)
    def append(self, message: str) -> None:
        assert self.log is not None
        self.log.append(Warned(step=len(self.written), message=message))
        self.written.append(message)

    @precondition(lambda self: self.log is not None)
    @rule(message=MESSAGES, data=st.data())
    def crash_in_a_line(self, message: str, data: st.DataObject) -> None:
        assert self.log is not None
        self.log.close()
        self.log = None
        line = dump_line(Warned(step=0, message=message))
        with self.path.open("ab") as file:
            file.write(line[: data.draw(st.integers(0, len(line) - 1))])

    @precondition(lambda self: self.log is None)
    @rule()
    def resume(self) -> None:
        self.log = EventLog(self.folder)

    @rule()
    def look(self) -> None:
        while (event := next(self.events)) is not None:
            assert isinstance(event, Warned)
            self.seen.append(event.message)

    @invariant()
    def nothing_is_seen_that_was_not_written_nor_out_of_order(self) -> None:
        assert self.seen == self.written[: len(self.seen)]

    @precondition(lambda self: self.log is not None)
    @invariant()
    def the_file_is_what_was_written(self) -> None:
        lines = self.path.read_bytes().split(b"\n")
        assert lines.pop() == b""
        assert [json.loads(line)["message"] for line in lines] == self.written

    def teardown(self) -> None:
        self.look()
        assert self.seen == self.written
        if self.log is not None:
            self.log.close()
        self._scratch.cleanup()


TornLog.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestTornLog = TornLog.TestCase
