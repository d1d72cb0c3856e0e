from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from napari_crln import identity
from napari_crln.identity import UNKNOWN, identity_by_proc, identity_by_psutil, lives, process_identity

Identify = Callable[[int], str]
both = pytest.mark.parametrize("identify", [identity_by_proc, identity_by_psutil])


@pytest.fixture
def off_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_LINUX", False)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@both
def test_it_stays_and_is_nobody_else_s(identify: Identify, child: subprocess.Popen[bytes]) -> None:
    me, it = identify(os.getpid()), identify(child.pid)
    assert (identify(os.getpid()), identify(child.pid)) == (me, it)
    assert len({me, it, "", UNKNOWN}) == 4


@both
def test_the_dead_and_those_not_yet_reaped_have_none(
    identify: Identify, child: subprocess.Popen[bytes]
) -> None:
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert identify(child.pid) == ""
    child.wait()
    assert identify(child.pid) == ""


@both
@pytest.mark.parametrize("pid", [-1, 2**31 - 1, 10**30])
def test_numbers_that_are_no_pid_have_none(identify: Identify, pid: int) -> None:
    assert identify(pid) == ""


def test_linux_reads_proc() -> None:
    assert process_identity(os.getpid()) == identity_by_proc(os.getpid()) != ""


@pytest.mark.usefixtures("off_linux")
def test_elsewhere_it_is_the_same_in_every_time_zone_and_language(monkeypatch: pytest.MonkeyPatch) -> None:
    here = process_identity(os.getpid())
    assert here.startswith("created ")
    for zone in ("Asia/Tokyo", "America/New_York"):
        monkeypatch.setenv("TZ", zone)
        monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
        time.tzset()
        assert process_identity(os.getpid()) == here
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("off_linux")
@pytest.mark.parametrize(
    ("later", "alive"), [(0, True), (0.5, True), (-0.5, True), (60, False), (-60, False)]
)
def test_elsewhere_a_clock_set_right_is_borne_and_a_reused_pid_known(later: float, alive: bool) -> None:
    created = psutil.Process().create_time() + later
    assert lives(os.getpid(), f"created {created:.2f}") is alive


@pytest.mark.usefixtures("off_linux")
@pytest.mark.parametrize(
    "recorded", ["", "Sat Nov 28 10:15:38 2026", "created nan", f"created {'9' * 400}.0"]
)
def test_elsewhere_what_earlier_versions_wrote_cannot_be_told_unless_dead(
    recorded: str, child: subprocess.Popen[bytes]
) -> None:
    assert lives(child.pid, recorded) is None
    child.kill()
    child.wait()
    assert lives(child.pid, recorded) is False


@pytest.mark.usefixtures("off_linux")
def test_a_process_that_may_not_be_asked_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(pid: int) -> None:
        raise psutil.AccessDenied(pid)

    monkeypatch.setattr(psutil, "Process", denied)
    assert process_identity(4) == UNKNOWN
    assert lives(4, "created 1700000000.00") is None
