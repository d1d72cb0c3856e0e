from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from napari_crln.errors import ProjectError
from napari_crln.run.launch import PROGRAM, Child, launch

OBEYS = """
import sys, time
from pathlib import Path
print("ready", sys.argv[1:], flush=True)
while not list(Path(sys.argv[1], "inbox").glob("*.json")): time.sleep(0.01)
print("obeyed", flush=True)
"""
HEEDS_SIGTERM = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(17))
print("ready", flush=True)
time.sleep(60)
"""
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
nap = [sys.executable, "-c", "import time; time.sleep(60)"]
same = subprocess.Popen(nap)
own = subprocess.Popen(nap, start_new_session=True)
print("ready", same.pid, own.pid, flush=True)
time.sleep(60)
"""
Start = Callable[[str], Child]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def started(code: str) -> Child:
        child = launch([str(tmp_path)], tmp_path / "log.txt", program=[sys.executable, "-c", code])
        wait_for(lambda: "ready" in child.tail())
        return child

    return started


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_it_starts_this_python_s_own_command_line() -> None:
    assert (sys.executable, "-P", "-m", "napari_crln") == PROGRAM


def test_no_file_of_the_current_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Viewers are started inside folders of data that somebody else packed."""
    for module in ("typer", "numpy", "napari_crln"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    child = launch(["--help"], tmp_path / "log.txt")
    assert child.wait(60) == 0, child.tail()
    assert "suggest" in child.tail()


def test_the_child_has_a_session_of_its_own_and_its_words_go_to_the_log(start: Start, tmp_path: Path) -> None:
    child = start(OBEYS)
    assert child.alive
    assert child.returncode is None
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    child.stop(30)
    assert child.wait(20) == 0
    assert child.log.read_text() == f"ready ['{tmp_path}']\nobeyed\n"


def test_stop_returns_at_once_and_twice_is_once(start: Start, tmp_path: Path) -> None:
    child = start(HEEDS_SIGTERM)
    begin = time.monotonic()
    child.stop(0.5)
    child.stop(0.5)
    assert time.monotonic() - begin < 0.3
    assert child.wait(20) == 17
    assert len(list((tmp_path / "inbox").iterdir())) == 1


def test_the_whole_tree_is_killed_in_the_end_sessions_of_their_own_too(start: Start) -> None:
    child = start(STUBBORN)
    helpers = [int(word) for word in child.tail().split()[1:]]
    assert not any(gone(pid) for pid in helpers)
    child.stop(0.2)
    assert child.wait(20) == -signal.SIGKILL
    for pid in helpers:
        wait_for(lambda pid=pid: gone(pid))  # type: ignore[misc]


def test_no_zombie_is_left_even_if_nobody_asks(tmp_path: Path) -> None:
    child = launch([], tmp_path / "log.txt", program=[sys.executable, "-c", "raise SystemExit(3)"])
    wait_for(lambda: not Path(f"/proc/{child.pid}").exists())
    assert (child.wait(5), child.alive) == (3, False)
    threads = threading.active_count()
    child.stop(1)
    assert threading.active_count() == threads


def test_an_inbox_that_cannot_be_written_is_no_hindrance(start: Start, tmp_path: Path) -> None:
    child = start(HEEDS_SIGTERM)
    (tmp_path / "inbox").write_text("a file in its place")
    child.stop(0.1)
    assert child.wait(20) == 17


def test_the_log_is_appended_to_and_its_end_shown(tmp_path: Path) -> None:
    for word in ("one", "two"):
        code = f"print({word!r} * 3)"
        child = launch([], tmp_path / "log.txt", program=[sys.executable, "-c", code])
        child.wait(20)
    assert child.log.read_text() == "oneoneone\ntwotwotwo\n"
    assert child.tail(4) == "two\n"


def test_the_log_is_utf8_whatever_this_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where a child whose output is a file writes the ANSI code page."""
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    child = launch([], tmp_path / "log.txt", program=[sys.executable, "-c", "print('Łódź é 患者')"])
    assert child.wait(20) == 0
    assert child.tail() == "Łódź é 患者\n"


def test_where_the_log_cannot_be_written_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ProjectError, match=r"cannot be written to \(Read-only.*work on a copy") as caught:
        launch([], tmp_path / "log.txt")
    assert caught.value.where == str(tmp_path)
