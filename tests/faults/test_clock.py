"""Clocks that stand wrong or run back, and files of 1970 and 2099: order comes from step numbers, never from time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sandbox import Sandbox, differing, final

from napari_crln import events
from napari_crln.engine import checkpoint
from napari_crln.run.folder import newest_finished, runs
from napari_crln.run.preview import PreviewReader
from napari_crln.run.watch import Tail, send

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # under load
IN_1970, IN_2099 = 3600.0, 4_085_000_000.0
OPTIONS = ("--iterations", 6, "--set=engine.preview_share=0.5")


def _date(folder: Path, epoch: float) -> None:
    """Give all below the folder the same time."""
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (epoch, epoch))


def test_a_run_whose_clock_goes_back_by_a_century_is_the_same_run(sandbox: Sandbox) -> None:
    assert sandbox.train(*OPTIONS).wait().code == 0
    whole, first = final(sandbox.run), sandbox.run

    late = "clock", {"epoch": IN_2099}
    ended = sandbox.train(*OPTIONS, "--name", "late", broken=late, failpoint="loop:step@5").wait()
    assert ended.code == -9
    run = sandbox.run
    assert run.name.startswith("2099-"), "the clock was not broken"
    assert run.path != first.path
    _date(run.checkpoints / "step-00000004", IN_1970)
    _date(run.checkpoints / "step-00000002", IN_2099)

    early = "clock", {"epoch": IN_1970, "backwards": True}
    ended = sandbox.resume("--run", run.name, broken=early).wait()
    assert ended.code == 0, ended.err
    started = [e for e in sandbox.events() if isinstance(e, events.Started)]
    assert [e.step for e in started] == [0, 4]
    assert started[0].time > started[1].time
    assert differing(final(run), whole) == []
    assert sorted(p.name for p in run.checkpoints.glob("step-*")) == ["step-00000004", "step-00000006"]
    assert run.status().reason == "finished"
    generations = [e.generation for e in sandbox.events() if isinstance(e, events.Previewed)]
    assert generations == sorted(set(generations))
    newest = PreviewReader(run.path).newest()
    assert newest is None or newest.record.generation == generations[-1]
    sandbox.check()


def test_which_run_and_checkpoint_are_newer_is_not_told_by_their_dates(sandbox: Sandbox) -> None:
    assert sandbox.train("--iterations", 4).wait().code == 0
    later = "clock", {"epoch": IN_1970}
    assert sandbox.train("--iterations", 4, broken=later).wait().code == 0
    first, second = runs(sandbox.project)
    assert first.name > second.name, "by name the first is newer"
    _date(first.path, IN_2099)
    _date(second.path, IN_1970)
    newest = newest_finished(sandbox.project)
    assert newest is not None
    assert newest.path == second.path

    os.utime(second.checkpoints / "step-00000002", (IN_2099, IN_2099))
    found, _ = checkpoint.latest(second.checkpoints)
    assert found is not None
    assert found.step == 4
    sandbox.check()


def test_commands_and_events_keep_their_order_when_the_clock_runs_back(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pause, resume, stop, each sent at an earlier time than the one before: obeyed in the order sent."""
    back = "clock", {"epoch": IN_2099, "backwards": True}
    process = sandbox.train("--iterations", 9000, broken=back)
    sandbox.watch(process, lambda event: isinstance(event, events.Stepped))
    for number, command in enumerate([events.Pause(), events.Resume(), events.Pause(), events.Stop()]):
        monkeypatch.setattr("time.time_ns", lambda number=number: int((IN_2099 - 1e8 * number) * 1e9))
        path = send(sandbox.run.path, command)
        os.utime(path, (IN_1970, IN_1970)) if path.exists() else None
    monkeypatch.undo()
    ended = process.wait()
    assert ended.code == 0, ended.err
    told = [e.kind for e in sandbox.events() if e.kind in ("paused", "continued", "ended")]
    assert told == ["paused", "continued", "paused", "ended"]
    steps = [e.step for e in sandbox.events()]
    assert steps == sorted(steps)
    times = [e.time for e in sandbox.events()]
    assert times == sorted(times, reverse=True)
    assert len(list(Tail(sandbox.run.events).lines())) == len(steps)
    sandbox.check()
