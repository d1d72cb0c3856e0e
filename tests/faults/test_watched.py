"""Watching: a killed run is reported within 2 s; a flood of events, and a log of a million, in constant memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sandbox import SOURCE, Process, Sandbox

from napari_crln import events
from napari_crln.gui.following import BEAT_S, follow_run, is_trained
from napari_crln.run.watch import Tail

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # under load
MILLION = 1_000_000
RATE = 10_000  # events a second
SECONDS = 2.0
#: A death is told within so many seconds.
PROMPT_S = 2.0

#: Follows a log to its end, and says how many events it gave, in order or not, and how its memory grew.
FOLLOW = """
import json, resource, sys, time
from pathlib import Path
from napari_crln.events import Ended
from napari_crln.run.watch import follow
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
seen, last, torn, early, peak, began = 0, 0, 0, 0, 0, time.process_time()
for event in follow(Path(sys.argv[1]), poll_s=0.005):
    if event is None:
        continue
    if isinstance(event, Ended):
        break
    seen += 1
    torn += event.kind == "warned"
    assert event.step >= last, "out of order"
    last = event.step
    if seen % 1000 == 0:
        early, peak = early or resident(), max(peak, resident())
print(json.dumps({"seen": seen, "last": last, "damaged": torn, "grown": peak - early,
    "cpu_ms": int(1000 * (time.process_time() - began))}))
"""


def _follower(folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", FOLLOW, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _answer(process: subprocess.Popen[str], seconds: float) -> dict[str, int]:
    out, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0
    return dict(json.loads(out))


def _told_after(folder: Path, process: Process) -> float:
    """Seconds from a kill, as news of the run come in, to the report of it."""
    killed = None
    for report in follow_run(folder, lambda: is_trained(folder)):
        if killed is None and report is not None and report.events:
            process.kill()
            killed = time.monotonic()
        if killed is not None and report is not None and report.gone:
            return time.monotonic() - killed
    raise AssertionError("it is followed for ever")


def test_a_killed_run_is_reported_within_two_seconds_and_resumes(sandbox: Sandbox) -> None:
    """A death at a random moment, told in time; a busy machine may be late, but not each of three times."""
    process = sandbox.train("--iterations", 6000)
    sandbox.watch(process, lambda event: isinstance(event, events.Checkpointed))
    took: list[float] = []
    while min(took, default=PROMPT_S) >= PROMPT_S and len(took) < 3:
        if took:
            process = sandbox.resume()
            sandbox.watch(process, lambda event: isinstance(event, events.Started) and event.resumed)
        took.append(_told_after(sandbox.run.path, process))
    assert min(took) < PROMPT_S, took
    assert sandbox.run.status().state == "lost"
    reached = sandbox.run.status().step
    ended = sandbox.resume("--iterations", reached + 1).wait()
    assert ended.code == 0, ended.err
    assert sandbox.run.status().state == "finished"
    sandbox.check()


def test_death_is_told_two_looks_later_at_most(tmp_path: Path) -> None:
    """So whatever the moment: between two looks, and until the log has been read again."""
    assert 2 * BEAT_S + 0.5 < PROMPT_S
    looks: list[float] = []

    def alive() -> bool:
        looks.append(time.monotonic())
        return len(looks) < 3

    reports = follow_run(tmp_path, alive, beat_s=0.05, poll_s=0.01)
    gone = next(report for report in reports if report is not None and report.gone)
    assert gone.events == ()
    assert len(looks) == 3, "no further look is needed"


def test_a_watcher_keeps_up_with_ten_thousand_events_a_second(tmp_path: Path) -> None:
    """It has each of them, in order, at a cost of less than half a core, whatever else the machine does."""
    follower = _follower(tmp_path)
    line = b'{"step":%d,"kind":"warned","message":"' + b"x" * 100 + b'"}\n'
    with (tmp_path / events.EVENTS_FILE).open("ab", buffering=0) as log:
        began, step = time.monotonic(), 0
        while step < RATE * SECONDS:
            due = int((time.monotonic() - began) * RATE)
            log.write(b"".join(line % number for number in range(step + 1, due + 1)))
            step = max(step, due)
            time.sleep(0.002)
        log.write(events.dump_line(events.Ended(step=step, reason="finished")))
    answer = _answer(follower, 60)
    assert (answer["seen"], answer["last"]) == (step, step)
    assert answer["cpu_ms"] < 1000 * 0.5 * step / RATE
    assert answer["grown"] < 4 << 20


def test_a_million_events_and_a_torn_last_line_in_constant_memory(tmp_path: Path) -> None:
    """Every event once, in order, none made up; the torn line is given when it is whole, or never."""
    log = tmp_path / events.EVENTS_FILE
    with log.open("wb") as file:
        for start in range(0, MILLION, 10_000):
            file.write(
                b"".join(b'{"step":%d,"kind":"paused"}\n' % step for step in range(start, start + 10_000))
            )
        file.write(b'{"step":1000000,"ki')
    follower = _follower(tmp_path)
    time.sleep(1)
    with log.open("ab") as file:
        file.write(b'nd":"paused"}\n' + events.dump_line(events.Ended(step=MILLION, reason="finished")))
    answer = _answer(follower, 110)
    assert (answer["seen"], answer["last"], answer["damaged"]) == (MILLION + 1, MILLION, 0)
    assert answer["grown"] < 8 << 20


def test_a_line_torn_by_a_kill_is_never_joined_with_what_resume_writes(sandbox: Sandbox) -> None:
    """The watcher, which looks before, between and after, sees each event once, and nothing damaged."""
    process = sandbox.train("--iterations", 6000)
    sandbox.watch(process, lambda event: isinstance(event, events.Checkpointed))
    process.kill()
    tail = Tail(sandbox.run.events)
    seen = list(tail.lines())
    with sandbox.run.events.open("ab") as file:
        file.write(b'{"step":7,"kind":"step')
    assert list(tail.lines()) == []
    reached = sandbox.run.status().step
    assert sandbox.resume("--iterations", reached + 1).wait().code == 0
    seen += tail.lines()
    kinds = [events.parse_event(line) for line in seen]
    assert [e.kind for e in kinds if e is not None] == [e.kind for e in sandbox.events()]
    assert None not in kinds
    sandbox.check()
