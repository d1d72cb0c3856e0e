from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from command_line import Call

from napari_crln.cli import watching
from napari_crln.config import build
from napari_crln.events import Ended, Event, Started, Stepped, dump_line
from napari_crln.run.folder import RunFolder, runs


def _started() -> Started:
    return Started(
        step=0, method="crln", iterations=2, pid=1, host="h", labelled=1, unlabelled=1, parameters=1
    )


def _write(run: RunFolder, *events: Event) -> None:
    with run.events.open("ab") as log:
        log.writelines(map(dump_line, events))


@pytest.fixture
def run(trained: Path) -> RunFolder:
    """The newest run, not started."""
    return RunFolder.create(trained, build({"iterations": 2}), "other")


def test_an_ended_run_is_told_and_left(call: Call, trained: Path) -> None:
    answer = call("watch", trained)
    assert (answer.code, answer.out.split(": ")[1][:21]) == (0, "finished at iteration")
    assert "3/3" in answer.err


def test_json_gives_every_event_of_the_log(call: Call, trained: Path) -> None:
    (only,) = runs(trained)
    answer = call("watch", only.path, "--json")
    assert [json.loads(line) for line in answer.out.splitlines()] == [
        json.loads(line) for line in only.events.read_bytes().splitlines()
    ]


def test_it_waits_for_what_comes(call: Call, trained: Path, run: RunFolder) -> None:
    def train() -> None:
        time.sleep(0.2)
        _write(run, _started(), Stepped(step=1, interval=1, losses={}, learning_rate=0.1, rate=1.0))
        time.sleep(0.2)
        _write(run, Ended(step=2, reason="stopped"))

    thread = threading.Thread(target=train)
    thread.start()
    answer = call("watch", trained, "--run", "other", "--json")
    thread.join()
    assert [json.loads(line)["kind"] for line in answer.out.splitlines()] == ["started", "stepped", "ended"]


@pytest.mark.parametrize(
    ("events", "says"),
    [((_started(),), "process is gone"), ((_started(), Ended(step=1, reason="failed", message="no")), "no")],
)
def test_a_run_that_is_lost_or_failed_has_the_exit_code_of_runs(
    events: tuple[Event, ...], says: str, call: Call, trained: Path, run: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    _write(run, *events)
    answer = call("watch", trained)
    assert answer.code == 5
    assert says in answer.err.splitlines()[-1]


def test_ctrl_c_leaves_the_run_alone(
    call: Call, trained: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: RunFolder) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(watching, "events_until_end", interrupted)
    answer = call("watch", run.path, "--json")
    assert (answer.code, list(run.path.glob("inbox/*"))) == (130, [])
    assert "goes on" in answer.err
