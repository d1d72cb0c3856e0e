"""A network share that goes away under a run: what is watched waits and says so; what trains tries again, then saves elsewhere."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playground import Playground, ids, voxels

from napari_crln import config, durable, events
from napari_crln.engine import checkpoint, patience
from napari_crln.engine.cohort import Case
from napari_crln.engine.data import TrainingData
from napari_crln.engine.loop import Trainer
from napari_crln.errors import OutOfSpace, RunError
from napari_crln.run.folder import RunFolder
from napari_crln.run.watch import follow
from napari_crln.volume.intensity import measure
from napari_crln.volume.project import Project

SETTINGS = config.build(
    {
        "iterations": 6,
        "network": {"base_filters": 2},
        "batches": {"patch": [16, 16, 16]},
        "method": {"name": "mean-teacher"},
        "engine": {
            "device": "cpu",
            "log_every": 1,
            "checkpoint_every": 2,
            "preview_share": 0.05,
            "threads": 1,
        },
    }
)
AWAY = 3  # the step at which the share goes


def _data() -> TrainingData:
    target = np.searchsorted([0, 4, 7], ids().T).astype(np.int16)
    images = [voxels(seed).T.copy() for seed in range(2)]
    cases = [Case(f"c{i}", image, measure(image, "percentile")) for i, image in enumerate(images)]
    labelled = Case("c0", images[0], cases[0].normalisation, target)
    return TrainingData(("background", "head", "tail"), [labelled], [cases[1]])


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 20.0)
    monkeypatch.setattr(patience, "_PAUSES_S", (0.02, 0.05))


@pytest.fixture
def run(empty: Project) -> Path:
    """A run folder; the project's folder of runs is the share."""
    return RunFolder.create(empty.path, SETTINGS).path


def _leave(run: Path) -> Path:
    """Unmount: the mount point is an empty folder then."""
    away = run.parent.with_name("server")
    run.parent.rename(away)
    run.parent.mkdir()
    return away


def _return(run: Path) -> None:
    """Mount again; whatever was written to the empty mount point would be hidden by it."""
    assert list(run.parent.iterdir()) == [], "something was written to the mount point"
    run.parent.rmdir()
    run.parent.with_name("server").rename(run.parent)


def _until(trainer: Trainer, step: int) -> tuple[list[events.Event], Iterator[events.Event]]:
    """Events up to the last one of a step, and the rest."""
    rest = iter(trainer)
    seen = []
    for event in rest:
        seen.append(event)
        if isinstance(event, events.Stepped) and event.step == step:
            return seen, rest
    raise AssertionError("the run ended early")


def _logged(run: Path) -> list[int]:
    lines = (run / events.EVENTS_FILE).read_bytes().splitlines()
    parsed = [events.parse_event(line) for line in lines]
    return [event.step for event in parsed if isinstance(event, events.Stepped)]


def _same_weights(run: Path, other: Path) -> bool:
    a, b = (checkpoint.latest(folder / events.CHECKPOINTS)[0] for folder in (run, other))
    assert a is not None
    assert b is not None
    assert a.step == b.step == 6
    return all(
        torch.equal(tensor, b.tensors["student"][name]) for name, tensor in a.tensors["student"].items()
    )


def _unbroken(ground: Playground) -> Path:
    (ground.inside / "unbroken").mkdir()
    list(Trainer(_data(), SETTINGS, ground.inside / "unbroken"))
    return ground.inside / "unbroken"


def test_a_share_that_comes_back_costs_nothing(ground: Playground, run: Path) -> None:
    seen, rest = _until(Trainer(_data(), SETTINGS, run), AWAY)
    _leave(run)
    timer = threading.Timer(1.0, _return, [run])
    timer.start()
    seen += rest
    timer.join()
    assert isinstance(seen[-1], events.Ended)
    assert seen[-1].reason == "finished"
    assert _logged(run) == [1, 2, 3, 4, 5, 6]
    assert _same_weights(run, _unbroken(ground))
    assert not (run / events.LOCK_FILE).exists()


def test_a_share_that_stays_away_ends_with_a_checkpoint_elsewhere(
    ground: Playground, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.3)
    _, rest = _until(Trainer(_data(), SETTINGS, run), AWAY)
    _leave(run)
    with pytest.raises(RunError, match=r"the run folder is away \(No such file or directory\)") as lost:
        list(rest)
    told = re.search(r"saved in (\S+): when", str(lost.value))
    assert told is not None
    rescued = Path(told[1])
    assert checkpoint.load(rescued).step == AWAY + 1
    _return(run)
    shutil.move(rescued, run / events.CHECKPOINTS)  # the remedy
    rescued.parent.rmdir()
    (
        run / events.LOCK_FILE
    ).unlink()  # it names this process; in earnest that one is gone, and the lock taken over
    seen = list(Trainer(_data(), SETTINGS, run))
    assert isinstance(seen[0], events.Started)
    assert (seen[0].step, seen[0].resumed) == (AWAY + 1, True)
    assert _same_weights(run, _unbroken(ground))


def test_a_signal_ends_the_waiting(ground: Playground, run: Path) -> None:
    _, rest = _until(Trainer(_data(), SETTINGS, run), AWAY)
    _leave(run)
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()
    with pytest.raises(RunError, match="is away") as lost:
        list(rest)
    rescued = Path(str(lost.value).partition("saved in ")[2].partition(":")[0])
    assert checkpoint.load(rescued).step == AWAY + 1
    shutil.rmtree(rescued.parent)


def _failing(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, code: int, times: int, when: Callable[..., bool]
) -> list[int]:
    """Let calls fail some times; the list grows with each failure."""
    real, failed = getattr(where, name), []

    def call(*arguments: Any) -> Any:
        if len(failed) < times and when(*arguments):
            failed.append(len(failed))
            raise OSError(code, os.strerror(code))
        return real(*arguments)

    monkeypatch.setattr(where, name, call)
    return failed


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_failing_writes_of_events_are_repeated(run: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    failed = _failing(monkeypatch, os, "write", code, 3, lambda _, data: b'"stepped"' in bytes(data))
    list(Trainer(_data(), SETTINGS, run))
    assert len(failed) == 3
    assert _logged(run) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_failing_writes_of_checkpoints_are_repeated(
    run: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    failed = _failing(
        monkeypatch, durable, "write_new", code, 4, lambda path, _: path.name == "student.safetensors"
    )
    list(Trainer(_data(), SETTINGS, run))
    assert len(failed) == 4
    found, skipped = checkpoint.latest(run / events.CHECKPOINTS)
    assert (found.step if found else None, skipped) == (6, [])
    assert not [p for p in run.rglob("*") if durable.TEMPORARY in p.name]


def test_a_full_disk_is_no_reason_to_wait(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(
        monkeypatch,
        durable,
        "write_new",
        errno.ENOSPC,
        99,
        lambda path, _: path.name == "student.safetensors",
    )
    monkeypatch.setattr(patience.time, "sleep", lambda _: pytest.fail("it waited"))
    with pytest.raises(OutOfSpace):
        list(Trainer(_data(), SETTINGS, run))


def _slow(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, seconds: float) -> list[str]:
    """Let calls take so much longer; the list grows with each."""
    real, calls = getattr(where, name), []

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        time.sleep(seconds)
        return real(*arguments, **options)

    monkeypatch.setattr(where, name, call)
    return calls


def test_a_slow_share_costs_time_and_nothing_else(
    ground: Playground, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read, write and flush takes its time: the run ends as on a disk, and who watches misses nothing."""
    with monkeypatch.context() as slowed:
        places = [(os, "write"), (os, "fsync"), (os, "scandir"), (Path, "open"), (durable, "write_new")]
        calls = [_slow(slowed, where, name, 0.02) for where, name in places]
        watched, told, seen = follow(run, poll_s=0), list[events.Event](), list[events.Event]()
        for event in Trainer(_data(), SETTINGS, run):
            seen.append(event)
            told += iter(watched.__next__, None)
    assert all(calls)
    assert [(e.kind, e.step) for e in told] == [(e.kind, e.step) for e in seen]
    assert isinstance(seen[-1], events.Ended)
    assert seen[-1].reason == "finished"
    assert _same_weights(run, _unbroken(ground))


def test_who_watches_waits_and_is_told(run: Path) -> None:
    list(Trainer(_data(), SETTINGS, run))
    watched = follow(run, poll_s=0)
    while next(watched) is not None:
        pass
    _leave(run)
    gone, *nothing = [next(watched) for _ in range(5)]
    assert isinstance(gone, events.Warned)
    assert f"{run.name} cannot be read (No such file or directory): waiting" in gone.message
    assert nothing == [None] * 4
    _return(run)
    back = next(watched)
    assert isinstance(back, events.Warned)
    assert "can be read again" in back.message
    assert next(watched) is None
