"""Start the engine as a process of its own, and end it: by command, by SIGTERM, by killing its tree.

Nothing here waits, so a GUI may call all of it: a thread reaps the child, so that no zombie is left, and
another climbs the ladder of `stop`. The child has its own session: it outlives a viewer that crashes or is
closed, and a Ctrl-C in the viewer's terminal does not reach it. No torch is imported on this side.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from napari_crln.durable import space_for
from napari_crln.errors import CrlnError
from napari_crln.events import Stop
from napari_crln.run.processes import descendants, kill
from napari_crln.run.watch import send

#: What runs a module in this Python. Without -P its files would come first that lie where the viewer was started:
#: a `typer.py` among somebody's data would be executed.
RUN_MODULE = (sys.executable, "-P", "-m")
#: What runs the command line in this Python.
PROGRAM = (*RUN_MODULE, "napari_crln")


class Child:
    """A started engine. Its `log` lies in the run folder, whose inbox takes the stop command.

    Attributes
    ----------
    log : file with its stdout and stderr
    pid : of the child, leader of its own session
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.log, self.pid = log, process.pid
        self._process = process
        self._ended = threading.Event()
        self._stopping: threading.Thread | None = None
        threading.Thread(target=self._reap, name=f"reap-{self.pid}", daemon=True).start()

    @property
    def returncode(self) -> int | None:
        """Exit status; negative signal number if one ended it; None while it runs."""
        return self._process.returncode if self._ended.is_set() else None

    @property
    def alive(self) -> bool:
        return not self._ended.is_set()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end; the exit status, or None if it still runs. Not for a GUI thread."""
        self._ended.wait(timeout_s)
        return self.returncode

    def stop(self, grace_s: float = 30.0) -> None:
        """Ask it to end, and see to it; returns at once. A second call changes nothing.

        Parameters
        ----------
        grace_s : seconds after the stop command until SIGTERM, and again until the tree is killed
        """
        if self.alive and self._stopping is None:
            self._stopping = threading.Thread(
                target=self._climb, args=(grace_s,), name=f"stop-{self.pid}", daemon=True
            )
            self._stopping.start()

    def terminate(self, grace_s: float = 5.0) -> None:
        """End it without the stop command, which it does not read: SIGTERM, then its tree is killed; returns at once.

        Parameters
        ----------
        grace_s : seconds after SIGTERM until the tree is killed
        """
        if self.alive and self._stopping is None:
            self._stopping = threading.Thread(
                target=self._end, args=(grace_s,), name=f"terminate-{self.pid}", daemon=True
            )
            self._stopping.start()

    def tail(self, size: int = 4000) -> str:
        """Last characters of the log, to show why it failed."""
        with suppress(FileNotFoundError), self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - size))
            return file.read(size).decode("utf-8", "replace")
        return ""

    def _reap(self) -> None:
        self._process.wait()
        self._ended.set()

    def _climb(self, grace_s: float) -> None:
        with suppress(CrlnError, OSError):  # an unwritable inbox: the next rung
            send(self.log.parent, Stop())
        if not self._ended.wait(grace_s):
            self._end(grace_s)

    def _end(self, grace_s: float) -> None:
        self._process.terminate()
        if not self._ended.wait(grace_s):
            self._kill_tree()

    def _kill_tree(self) -> None:
        if os.name == "nt":
            # By its path: Windows would take one that lies in the current folder.
            taskkill = str(Path(os.environ["SYSTEMROOT"], "System32", "taskkill.exe"))
            subprocess.run([taskkill, "/T", "/F", "/PID", str(self.pid)], capture_output=True, check=False)
            return
        tree = descendants(self.pid)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        kill(tree)


def launch(arguments: Sequence[str], log: Path, *, program: Sequence[str] = PROGRAM) -> Child:
    """Start `napari-crln <arguments>` in its own session and return at once.

    Parameters
    ----------
    arguments : of the command line, e.g. `["resume", "--run", "…"]`
    log : file in the run folder that stdout and stderr are appended to

    Raises
    ------
    ProjectError, OutOfSpace
        If the log cannot be written.
    """
    # UTF-8 is what the log is read as; on Windows a child whose output is a file writes the ANSI code page.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    with space_for(log.parent):
        output = log.open("ab")
    with output:
        process = subprocess.Popen(
            [*program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=os.name == "posix",
            creationflags=flags,
        )
    return Child(process, log)
