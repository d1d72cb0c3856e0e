"""Two trainers on one run, two writers on one annotation: the second is told who holds it; a dead one's lock is taken over."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest
from sandbox import Process, Sandbox

from napari_crln import events
from napari_crln.identity import process_identity
from napari_crln.lock import holder
from napari_crln.volume.editing import editor, holding
from napari_crln.volume.project import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # under load


@pytest.fixture
def stopped(sandbox: Sandbox) -> Sandbox:
    """A run that can be resumed."""
    assert sandbox.train("--iterations", 9000, failpoint="loop:step@3=SIGTERM").wait().code == 130
    return sandbox


def _write_record(folder: Path, **changes: object) -> None:
    own = {"pid": os.getpid(), "started": process_identity(os.getpid())}
    record = {**own, "host": socket.gethostname(), "since": "2026-01-02T03:04:05+0000", **changes}
    (folder / events.LOCK_FILE).write_text(json.dumps(record))


def test_a_second_trainer_is_refused_with_who_holds_the_run_and_the_first_goes_on(stopped: Sandbox) -> None:
    first = stopped.resume()
    stopped.watch(first, lambda event: isinstance(event, events.Started) and event.resumed)
    named = holder(stopped.run.path)
    assert named is not None
    for arguments in (("resume", stopped.project), ("train", "--run-folder", stopped.run.path)):
        second = stopped.start(*arguments).wait()
        assert second.code == 5, second.err
        assert f"process {first.pid} on {socket.gethostname()} since {named.since}" in second.last_words
    stopped.watch(first, lambda event: event.step > 8)
    assert first.poll() is None
    starts = [e for e in stopped.events() if isinstance(e, events.Started)]
    assert len(starts) == 2, "the refused ones wrote into the log"
    first.send(signal.SIGTERM)
    assert first.wait().code == 130
    stopped.check()


def test_its_settings_cannot_be_changed_under_a_trainer(stopped: Sandbox) -> None:
    first = stopped.resume()
    stopped.watch(first, lambda event: isinstance(event, events.Started) and event.resumed)
    before = (stopped.run.path / events.CONFIG_FILE).read_bytes()
    second = stopped.resume("--iterations", 5).wait()
    assert second.code == 5, second.err
    assert f"process {first.pid}" in second.last_words
    assert (stopped.run.path / events.CONFIG_FILE).read_bytes() == before
    first.send(signal.SIGTERM)
    assert first.wait().code == 130
    stopped.check()


@pytest.mark.parametrize("left", [{"started": "another boot:1"}, {"pid": 2**22 - 3, "started": "x"}, {}])
def test_the_lock_of_a_process_that_is_gone_is_taken_over(stopped: Sandbox, left: dict[str, object]) -> None:
    """Its pid now another process's; or nobody's; or the file cut short."""
    if left:
        _write_record(stopped.run.path, **left)
    else:
        (stopped.run.path / events.LOCK_FILE).write_bytes(b'{"pid":')
    ended = stopped.resume("--iterations", 4).wait()
    assert ended.code == 0, ended.err
    stopped.check()


def test_a_lock_of_another_machine_is_not_taken_over_and_the_remedy_works(stopped: Sandbox) -> None:
    _write_record(stopped.run.path, host="node-17", pid=4)
    ended = stopped.resume("--iterations", 4).wait()
    assert ended.code == 5
    assert "process 4 on node-17 since 2026-01-02T03:04:05+0000" in ended.last_words
    assert "delete lock.json" in ended.last_words
    (stopped.run.path / events.LOCK_FILE).unlink()
    assert stopped.resume("--iterations", 4).wait().code == 0
    stopped.check()


def test_of_five_that_resume_a_killed_run_at_once_one_trains_it(stopped: Sandbox) -> None:
    first = stopped.resume()
    stopped.watch(first, lambda event: isinstance(event, events.Started) and event.resumed)
    first.kill()
    rivals = [stopped.resume() for _ in range(5)]
    refused: list[Process] = []
    while len(refused) < 4:
        refused = [rival for rival in rivals if rival.poll(0.05) is not None]
    (winner,) = [rival for rival in rivals if rival not in refused]
    named = holder(stopped.run.path)
    assert named is not None
    assert named.pid == winner.pid
    assert all(rival.code == 5 and "held by" in rival.wait().last_words for rival in refused)
    winner.send(signal.SIGTERM)
    assert winner.wait().code == 130
    stopped.check()


@pytest.fixture
def predicted(sandbox: Sandbox) -> Sandbox:
    """A project with a prediction of `case_5`, to be accepted as its annotation."""
    assert sandbox.train("--iterations", 2).wait().code == 0
    assert sandbox.start("predict", sandbox.project, "--volume=case_5").wait().code == 0
    assert sandbox.start("role", sandbox.project, "case_5", "--to=unlabelled").wait().code == 0
    return sandbox


def test_a_second_writer_of_an_annotation_is_refused_with_who_holds_it(predicted: Sandbox) -> None:
    accept = ("accept", predicted.project, "case_5")
    volume = predicted.project / "volumes" / "case_5.zarr"
    with holding(volume):
        named = editor(volume)
        assert named is not None
        second = predicted.start(*accept).wait()
        assert second.code == 4, second.err
        assert f"process {os.getpid()} on {socket.gethostname()} since {named.since}" in second.last_words
        assert Project.open(predicted.project).volumes["case_5"].coverage is None
    assert predicted.start(*accept).wait().code == 0
    assert Project.open(predicted.project).volumes["case_5"].coverage is not None
    predicted.check()


def test_the_lock_of_a_writer_that_was_killed_is_taken_over(predicted: Sandbox) -> None:
    accept = ("accept", predicted.project, "case_5")
    broken = "signals_in", {"function": "napari_crln.durable.sync", "signal": "SIGKILL"}
    assert predicted.start(*accept, broken=broken).wait().code == -signal.SIGKILL
    assert predicted.start(*accept).wait().code == 0
    annotation = Project.open(predicted.project).volumes["case_5"].read_annotation()
    assert annotation.min() >= 1
    predicted.check()
