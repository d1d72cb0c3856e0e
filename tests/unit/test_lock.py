from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import other_systems
import pytest

from napari_crln.errors import RunError
from napari_crln.identity import process_identity
from napari_crln.lock import Lock, holder

HOLD = """
import sys
from pathlib import Path
import other_systems
from napari_crln.lock import Lock
if sys.argv[2] != "linux": getattr(other_systems, sys.argv[2])(setattr)
Lock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_elsewhere(folder: Path, system: str = "linux") -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(folder), system]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def write_record(folder: Path, **changes: object) -> None:
    own = process_identity(os.getpid())
    record = {"pid": os.getpid(), "host": socket.gethostname(), "since": "then", "started": own}
    (folder / "lock.json").write_text(json.dumps({**record, **changes}))


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_it_says_who_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with Lock(tmp_path):
        named = holder(tmp_path)
        assert named is not None
        assert (named.pid, named.host, named.alive()) == (os.getpid(), socket.gethostname(), True)
    assert holder(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_released_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Lock(tmp_path):
        _ = 1 / 0
    with Lock(tmp_path):
        pass


def test_a_live_holder_is_named_and_a_killed_one_taken_over(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        named = holder(tmp_path)
        assert named is not None
        pattern = f"process {process.pid} on {named.host} since .*{named.since[:10]}"
        with pytest.raises(RunError, match=pattern):
            Lock(tmp_path).acquire()
        assert named.alive() is True
        process.kill()
        process.wait()
        assert named.alive() is False
        with Lock(tmp_path):
            after = holder(tmp_path)
            assert after is not None
            assert after.pid == os.getpid()


def test_a_zombie_counts_as_dead(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet reaped
        with Lock(tmp_path):
            pass


def test_a_recycled_pid_does_not_hold(tmp_path: Path) -> None:
    write_record(tmp_path, started="another boot:1")
    with Lock(tmp_path):
        pass


def test_a_dead_pid_does_not_hold(tmp_path: Path) -> None:
    write_record(tmp_path, pid=dead_pid())
    with Lock(tmp_path):
        pass


def test_a_live_record_holds_even_where_its_flock_cannot_be_seen(tmp_path: Path) -> None:
    write_record(tmp_path)
    with pytest.raises(RunError, match=f"process {os.getpid()}"):
        Lock(tmp_path).acquire()
    assert holder(tmp_path) is not None


def test_another_machine_cannot_be_asked_so_it_holds(tmp_path: Path) -> None:
    write_record(tmp_path, host="node-17", pid=4)
    named = holder(tmp_path)
    assert named is not None
    assert named.alive() is None
    with pytest.raises(RunError, match=r"process 4 on node-17.*delete lock\.json"):
        Lock(tmp_path).acquire()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid":1}'])
def test_a_half_written_record_is_nobody(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lock.json").write_bytes(content)
    assert holder(tmp_path) is None
    with Lock(tmp_path):
        assert holder(tmp_path) is not None


def test_of_many_takers_of_a_stale_lock_one_gets_it(tmp_path: Path) -> None:
    stale, inside, most, taken = dead_pid(), [0], [0], [0]
    barrier, guard = threading.Barrier(8), threading.Lock()

    def take() -> None:
        barrier.wait()
        for _ in range(40):
            try:
                with Lock(tmp_path):
                    with guard:
                        inside[0] += 1
                        taken[0] += 1
                        most[0] = max(most[0], inside[0])
                    with guard:
                        inside[0] -= 1
            except RunError:
                continue

    write_record(tmp_path, pid=stale)
    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert taken[0] > 8


def test_without_flock_creation_alone_guards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_crln.lock.fcntl", None)
    with Lock(tmp_path), pytest.raises(RunError, match="held by process"):
        Lock(tmp_path).acquire()
    with Lock(tmp_path):
        pass


def test_a_file_released_between_opening_and_locking_is_not_taken_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former, taker = Lock(tmp_path), Lock(tmp_path)
    former.acquire()
    opened = taker._open

    def open_then_lose() -> tuple[int, bool]:
        monkeypatch.undo()
        handle = opened()
        former.release()
        return handle

    monkeypatch.setattr(taker, "_open", open_then_lose)
    with taker:
        assert holder(tmp_path) is not None
        with pytest.raises(RunError):
            Lock(tmp_path).acquire()


def test_a_lock_deleted_by_hand_and_taken_by_another_stays_the_other_s(tmp_path: Path) -> None:
    first, second = Lock(tmp_path), Lock(tmp_path)
    first.acquire()
    (tmp_path / "lock.json").unlink()
    second.acquire()
    first.release()
    assert holder(tmp_path) is not None
    second.release()
    assert holder(tmp_path) is None


@pytest.fixture(params=["macos", "windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Another system than Linux, as far as locks see it."""
    name: str = request.param
    getattr(other_systems, name)(monkeypatch.setattr)
    return name


def test_off_linux_a_live_holder_is_refused_and_a_killed_one_taken_over(system: str, tmp_path: Path) -> None:
    with held_elsewhere(tmp_path, system) as process:
        named = holder(tmp_path)
        assert named is not None
        assert named.alive() is True
        with pytest.raises(RunError, match=f"process {process.pid} on"):
            Lock(tmp_path).acquire()
        process.kill()
        process.wait()
        assert (tmp_path / "lock.json").exists()
        assert named.alive() is False
        with Lock(tmp_path):
            after = holder(tmp_path)
            assert after is not None
            assert (after.pid, after.alive()) == (os.getpid(), True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("system")
def test_off_linux_a_recycled_pid_does_not_hold(tmp_path: Path) -> None:
    write_record(tmp_path, started="created 1700000000.00")
    with Lock(tmp_path):
        pass


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("started", ["", "Sat Nov 28 10:15:38 2026"])
def test_off_linux_records_of_earlier_versions_are_read(tmp_path: Path, started: str) -> None:
    """They bear local time, or nothing: while some process has the pid, it may be that one."""
    write_record(tmp_path, started=started)
    with pytest.raises(RunError, match=f"process {os.getpid()}.*delete"):
        Lock(tmp_path).acquire()
    write_record(tmp_path, started=started, pid=dead_pid())
    with Lock(tmp_path):
        pass


def test_on_windows_a_lock_that_cannot_be_deleted_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not, while another has it open."""
    other_systems.windows(monkeypatch.setattr)

    def in_use(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "in use", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", in_use)
        with Lock(tmp_path):
            pass
    assert holder(tmp_path) is None
    with Lock(tmp_path):
        assert holder(tmp_path) is not None


def test_linux_inside_windows_holds_against_it_and_the_other_way_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have one host name, and pids of their own."""
    here = process_identity(os.getpid())
    write_record(tmp_path, started="created 1700000000.00", pid=dead_pid())
    named = holder(tmp_path)
    assert named is not None
    assert named.alive() is None
    other_systems.windows(monkeypatch.setattr)
    write_record(tmp_path, started=here, pid=dead_pid())
    named = holder(tmp_path)
    assert named is not None
    assert named.alive() is None
