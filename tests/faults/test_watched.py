"""Watching: a killed run is reported within 2 s; a flood of events, and a log of a million, in constant memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sandbox import SOURCE, Sandbox

from napari_crln import events
from napari_crln.gui.following import follow_run, is_trained
from napari_crln.run.watch import Tail

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # under load
MILLION = 1_000_000
RATE = 10_000  # events a second
SECONDS = 2.0

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


def test_a_killed_run_is_reported_within_two_seconds_and_resumes(sandbox: Sandbox) -> None:
    process = sandbox.train("--iterations", 6000)
    sandbox.watch(process, lambda event: isinstance(event, events.Checkpointed))
    folder, killed = sandbox.run.path, float("inf")
    for report in follow_run(folder, lambda: is_trained(folder)):
        if report is not None and report.events and killed == float("inf"):
            process.kill()
            killed = time.monotonic()
        if report is not None and report.gone:
            break
        assert time.monotonic() - killed < 2.0, "not reported in time"
    assert time.monotonic() - killed < 2.0
    assert sandbox.run.status().state == "lost"
    reached = sandbox.run.status().step
    ended = sandbox.resume("--iterations", reached + 1).wait()
    assert ended.code == 0, ended.err
    assert sandbox.run.status().state == "finished"
    sandbox.check()


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
