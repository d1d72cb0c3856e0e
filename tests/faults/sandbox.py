"""A project in a place of its own, the processes that are started on it, and what must hold when a test is over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from napari_crln.cli import main
from napari_crln.engine import checkpoint
from napari_crln.events import EVENTS_FILE, Event, parse_event
from napari_crln.run.folder import RunFolder, runs

SOURCE = Path(__file__).parents[2] / "src"
#: A run of about a second: a V-Net of 2 filters on patches of 16³.
TINY = (
    "--device=cpu",
    "--threads=1",
    *(f"--set={text}" for text in (
        "network.base_filters=2", "optimiser.learning_rate=0.01", "batches.patch=[16,16,16]",
        "method.dim.prototypes=2", "method.dim.width=4", "method.rectification.after=2",
        "method.consistency.sample_threshold=0.3", "method.cps.anchors=8", "method.cps.negatives=16",
        "method.cps.valid_confidence=0.3", "engine.log_every=1", "engine.checkpoint_every=2",
        "engine.preview_share=0", "engine.validate_every=0",
    )),
)  # fmt: skip
_PLACES = {"p.crln", "home", "tmp", "cwd", "logs"}


class Zygote:
    """The process that starts others (zygote.py)."""

    def __init__(self, home: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "HOME": str(home)}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._answer() == "ready\n"

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._answer())

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(100)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class Ended(NamedTuple):
    """What a process came to: its exit code, or minus the signal that ended it, and its words."""

    code: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """The last line on stderr."""
        return self.err.splitlines()[-1] if self.err else ""


@dataclass
class Process:
    """A command line that runs."""

    pid: int
    log: Path
    zygote: Zygote
    code: int | None = None

    def poll(self, seconds: float = 0.0) -> int | None:
        """Its exit code, None if it still runs after so many seconds."""
        if self.code is None:
            self.code = self.zygote.ask({"wait": self.pid, "seconds": seconds})
        return self.code

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 100.0) -> Ended:
        code = self.poll(seconds)
        assert code is not None, f"process {self.pid} still runs after {seconds} s"
        out, err = (self.log.with_name(self.log.name + end).read_text("utf-8") for end in (".out", ".err"))
        return Ended(code, out, err)

    def kill(self) -> Ended:
        self.send(signal.SIGKILL)
        return self.wait()


@dataclass
class Sandbox:
    """Where one test plays: a project `p.crln`, and empty folders for home, temporary files and the current folder."""

    root: Path
    zygote: Zygote
    started: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("home", "tmp", "cwd", "logs"):
            (self.root / name).mkdir()

    @classmethod
    def beside(cls, folder: Path, project: Path, zygote: Zygote) -> Sandbox:
        """A sandbox in a new folder, with a copy of the project."""
        root = Path(tempfile.mkdtemp(dir=folder.parent))
        shutil.copytree(project, root / "p.crln")
        return cls(root, zygote)

    @property
    def project(self) -> Path:
        return self.root / "p.crln"

    @property
    def run(self) -> RunFolder:
        """The newest run."""
        return runs(self.project)[-1]

    def start(
        self, *arguments: object, failpoint: str = "", broken: tuple[str, dict[str, Any]] | None = None
    ) -> Process:
        """Start the command line; `broken` is a breakage (breakages.py) and its parameters."""
        log = self.root / "logs" / f"{len(self.started):03d}"
        for end in (".out", ".err"):
            log.with_name(log.name + end).touch()  # it may be killed before it opens them
        environment = {
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "CRLN_FAILPOINT": failpoint,
        }
        request = {
            "arguments": [str(argument) for argument in arguments],
            "environment": environment,
            "folder": str(self.root / "cwd"),
            "log": str(log),
            "break": broken,
        }
        pid = self.zygote.ask({"start": request})
        self.started.append(pid)
        return Process(pid, log, self.zygote)

    def train(self, *options: object, method: str = "mean-teacher", **how: Any) -> Process:
        """Start a tiny run; later options win."""
        return self.start("train", self.project, "--method", method, *TINY, *options, **how)

    def resume(self, *options: object, **how: Any) -> Process:
        return self.start("resume", self.project, *options, **how)

    def watch(self, process: Process, sought: Callable[[Event], bool], seconds: float = 100.0) -> Event:
        """Wait until the newest run tells an event, its process alive or not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            ended = process.poll() is not None
            for event in self.events():
                if sought(event):
                    return event
            assert not ended, process.wait().err
            time.sleep(0.03)
        raise AssertionError("no such event came")

    def events(self) -> list[Event]:
        """All of the newest run; none before there is a run."""
        found = runs(self.project)
        log = found[-1].path / EVENTS_FILE if found else None
        lines = log.read_bytes().splitlines(keepends=True) if log is not None and log.exists() else []
        return [e for line in lines if line.endswith(b"\n") and (e := parse_event(line)) is not None]

    def told(self) -> int:
        """Lines in the newest run's log."""
        return self.run.events.read_bytes().count(b"\n")

    def inspect(self) -> dict[str, Any]:
        """What `napari-crln inspect` says of the newest run."""
        answer = self.start("inspect", self.run.path, "--json").wait()
        assert answer.code == 0, answer.err
        return dict(json.loads(answer.out))

    def check(self, sound: bool = True) -> None:
        """Hold what every fault must leave: readable folders, no process, no leftover, nothing outside."""
        for run in runs(self.project):
            answer = self.start("inspect", run.path, "--json").wait()
            assert answer.code == 0, answer.err
            faults = [c for c in json.loads(answer.out)["checkpoints"] if not c["sound"]]
            assert not (sound and faults), faults
        whole = self.start("inspect", self.project, "--verify", "--json").wait()
        assert whole.code == 0, whole.err
        left = [str(p.relative_to(self.root)) for p in _all(self.project) if _is_leftover(p)]
        assert left == [], "left behind"
        assert {path.name for path in self.root.iterdir()} <= _PLACES | {"disk"}, (
            "something lies outside the folders"
        )
        for name in ("home", "tmp", "cwd"):
            assert list((self.root / name).iterdir()) == [], f"something was written to {name}"
        assert _processes_of(self.started) == [], "a process is left"


def _all(folder: Path) -> Iterator[Path]:
    return folder.rglob("*")


def _is_leftover(path: Path) -> bool:
    return path.name.startswith((".tmp-", ".replaced-")) or path.name == "lock.json"


def _processes_of(sessions: list[int]) -> list[int]:
    """Processes that live in one of these sessions."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) in sessions:
                found.append(int(entry.name))
    return found


def final(run: RunFolder) -> checkpoint.Snapshot:
    """The newest checkpoint, which must be sound, and the only ones skipped none."""
    found, skipped = checkpoint.latest(run.checkpoints)
    assert found is not None
    assert skipped == []
    return found


def differing(a: checkpoint.Snapshot, b: checkpoint.Snapshot) -> list[str]:
    """Names of what two checkpoints do not have in common, to the bit."""
    assert a.tensors.keys() == b.tensors.keys()
    tensors = [
        f"{group}.{name}"
        for group in a.tensors
        for name in a.tensors[group].keys() | b.tensors[group].keys()
        if not torch.equal(a.tensors[group][name], b.tensors[group][name])
    ]
    values = [key for key in a.state.keys() | b.state.keys() if a.state.get(key) != b.state.get(key)]
    return [*tensors, *values, *(["step"] if a.step != b.step else [])]


def import_project(source: Path, target: Path) -> None:
    assert main(["import", str(source), str(target), "--labelled", "2", "--validation", "1", "--json"]) == 0
