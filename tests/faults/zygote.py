"""Starts processes of napari-crln at the cost of a fork: torch is imported once, here.

A line of JSON on stdin asks, a line on stdout answers:

    {"start": {"arguments": […], "environment": {…}, "folder": "…", "log": "…", "break": ["name", value]}}   → pid
    {"wait": pid, "seconds": 10}                                      → exit status, or null if it still runs

Each process leads a session of its own, runs the command line with `arguments`, and writes stdout and stderr to
`<log>.out` and `<log>.err`. What it breaks before is in `breakages`. When stdin ends, all are killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any, NoReturn

import torch._dynamo  # noqa: F401 - the first optimiser would import it, at the cost of seconds
from breakages import BREAKAGES

import napari_crln.cli.inspecting
import napari_crln.cli.live
import napari_crln.cli.runs
import napari_crln.engine.loop
import napari_crln.engine.segment
import napari_crln.run.folder
import napari_crln.volume.project
import napari_crln.volume.store  # noqa: F401 - imported here, so that no child has to
from napari_crln.cli import main

_children: set[int] = set()


def start(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        run(request)
    _children.add(pid)
    return pid


def run(request: dict[str, Any]) -> NoReturn:
    os.setsid()
    os.chdir(request["folder"])
    for number, end in ((1, ".out"), (2, ".err")):
        handle = os.open(request["log"] + end, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["environment"])
    code = 70
    try:
        if request["break"]:
            name, value = request["break"]
            BREAKAGES[name](value)
        code = main(request["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            _children.discard(pid)
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.005)


def serve() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = start(request["start"]) if "start" in request else wait(request["wait"], request["seconds"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell starts what is in its background without one
    try:
        serve()
    finally:
        for child in _children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        os._exit(0)  # taking down an interpreter with torch in it takes seconds
