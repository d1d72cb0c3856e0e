from __future__ import annotations

import time
from pathlib import Path

import pytest

from napari_crln.config import RunConfig
from napari_crln.events import (
    Continued,
    Ended,
    Event,
    Paused,
    Started,
    Stepped,
    Validated,
    Warned,
    dump_line,
)
from napari_crln.lock import Lock
from napari_crln.run.folder import RunFolder
from napari_crln.run.status import RunStatus, read_status


def started(step: int = 0) -> Started:
    return Started(
        step=step, method="crln", iterations=100, pid=1, host="h", labelled=1, unlabelled=2, parameters=3
    )


def stepped(step: int, total: float) -> Stepped:
    return Stepped(step=step, interval=10, losses={"total": total}, learning_rate=0.1, rate=1.0)


def validated(step: int, dice: float) -> Validated:
    return Validated(step=step, dice=dice, per_class={}, per_volume={})


def status_of(folder: Path, *events: Event, alive: bool | None = False) -> RunStatus:
    path = folder / "events.jsonl"
    path.write_bytes(b"".join(map(dump_line, events)))
    return read_status(path, alive=alive)


def test_a_run_without_events_is_new(tmp_path: Path) -> None:
    status = read_status(tmp_path / "events.jsonl")
    assert (status.state, status.step, status.best_dice) == ("new", 0, None)


def test_the_last_report_and_the_best_validation(tmp_path: Path) -> None:
    events = [started(), stepped(10, 3.0), validated(10, 0.7), stepped(20, 2.0), validated(20, 0.6)]
    status = status_of(tmp_path, *events, stepped(30, 1.0), stepped(40, 0.5), alive=True)
    assert (status.method, status.iterations, status.step) == ("crln", 100, 40)
    assert status.losses == {"total": 0.5}
    assert status.best_dice == 0.7
    assert status.state == "running"


def test_a_validation_that_is_not_a_number_is_no_best(tmp_path: Path) -> None:
    status = status_of(tmp_path, validated(1, float("nan")))
    assert status.best_dice is None
    status = status_of(tmp_path, validated(1, float("nan")), validated(2, 0.4), validated(3, float("nan")))
    assert status.best_dice == 0.4


@pytest.mark.parametrize("reason", ["finished", "stopped", "interrupted", "failed"])
def test_the_end_and_its_reason_until_it_is_resumed(tmp_path: Path, reason: str) -> None:
    end = Ended.model_validate({"step": 50, "reason": reason, "message": "why"})
    status = status_of(tmp_path, started(), stepped(50, 1.0), end)
    assert (status.state, status.message, status.step) == (reason, "why", 50)
    resumed = status_of(tmp_path, started(), end, started(40), alive=True)
    assert (resumed.reason, resumed.state, resumed.step, resumed.message) == (None, "running", 40, "")


def test_paused_and_continued(tmp_path: Path) -> None:
    assert status_of(tmp_path, started(), Paused(step=1), alive=True).state == "paused"
    assert status_of(tmp_path, started(), Paused(step=1), Continued(step=1), alive=True).state == "running"


def test_a_process_that_went_without_a_word_is_lost_and_one_elsewhere_may_run(tmp_path: Path) -> None:
    assert status_of(tmp_path, started(), stepped(10, 1.0)).state == "lost"
    assert status_of(tmp_path, started(), stepped(10, 1.0), alive=None).state == "running"


def test_torn_and_damaged_lines_and_talk_of_steps_do_not_confuse(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    talk = dump_line(Warned(step=12, message='"kind":"stepped"'))
    path.write_bytes(dump_line(stepped(10, 1.0)) + b"\x00garbage\n" + talk + dump_line(stepped(20, 0.5))[:-9])
    status = read_status(path)
    assert (status.step, status.losses) == (12, {"total": 1.0})


def test_alive_as_long_as_the_lock_is_held(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, RunConfig())
    run.events.write_bytes(dump_line(started()))
    with Lock(run.path):
        assert run.status().state == "running"
    assert run.status().state == "lost"


def test_a_long_log_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(dump_line(started()) + dump_line(stepped(10, 1.0)) * 200_000)
    begin = time.process_time()
    assert read_status(path).step == 10
    assert time.process_time() - begin < 1.0
