"""Soak: a run is trained for minutes and steered at random, and must not grow, nor leave handles or files behind.

    python benchmarks/soak.py --minutes 30 --out benchmarks/results/soak-cpu.json

The run is a process of its own, as the viewer starts it, on phantoms. Every few seconds it is sent one of pause, resume,
focus, preview budget and a new annotation, drawn by `--seed`; it validates, saves and previews all the while, and this
process reads its events and previews, as a viewer would. Both are measured every second: resident memory, open
handles, threads, and the files in the run folder. The second quarter of the time is compared with the last; the first
is warm-up. Exits with 1 if the median of memory grew by more than 2 %, if there are always more handles, threads or files
than there ever were, if anything is left or lies outside the project, or if the run did not end as it was told to.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from record import record

from napari_crln import config, events
from napari_crln.durable import TEMPORARY
from napari_crln.run.folder import RunFolder
from napari_crln.run.launch import Child, launch
from napari_crln.run.preview import PreviewGone, PreviewReader
from napari_crln.run.watch import follow, send
from napari_crln.types import Role
from napari_crln.volume.project import Project
from napari_crln.volume.sample import make_sample_project

#: Largest growth of memory, of the last quarter over the second.
GROWTH = 0.02
ROLES: tuple[Role, ...] = (*("labelled",) * 3, *("unlabelled",) * 3, "validation")
_PAUSE_S = 5.0  # at most, so that most of the time is training
_LOOK_S = 2.0  # what passes between two looks at most, on a busy machine
_SETTINGS: dict[str, Any] = {
    "iterations": 10_000_000,
    "network": {"base_filters": 4},
    "batches": {"patch": [16, 32, 32]},
    "method": {"dim": {"prototypes": 4, "width": 16}, "rectification": {"after": 5}},
    "engine": {
        "device": "cpu", "log_every": 5, "checkpoint_every": 25, "validate_every": 100, "preview_share": 0.1,
        "preview_history": 5,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One look at a process and the run folder."""

    seconds: float
    memory_mb: float
    handles: int
    threads: int
    watcher_mb: float
    watcher_handles: int
    files: int


class Driver:
    """Sends a random command every few seconds."""

    def __init__(self, project: Project, run: RunFolder, seed: int) -> None:
        self.sent: Counter[str] = Counter()
        self._project, self._run = project, run
        self._draw = random.Random(seed)
        self._due, self._resume_at = 0.0, float("inf")
        self._focus = 0

    def act(self, now: float) -> None:
        """Send what is due."""
        if now >= self._resume_at:
            self._resume_at = float("inf")
            self._send(events.Resume())
        if now >= self._due:
            self._due = now + self._draw.uniform(0.5, 4.0)
            self._draw.choice([self._pause, self._look, self._look, self._budget, self._annotate])(now)

    def _pause(self, now: float) -> None:
        self._send(events.Pause())
        self._resume_at = now + self._draw.uniform(0.2, _PAUSE_S)

    def _look(self, _: float) -> None:
        volume = self._draw.choice(list(self._project.volumes.values()))
        axis = self._draw.choice([0, 1, 2])
        self._focus += 1
        index = self._draw.randrange(volume.grid.shape[axis])
        self._send(events.Focus(volume=volume.name, axis=axis, index=index, generation=self._focus))

    def _budget(self, _: float) -> None:
        self._send(events.PreviewBudget(share=self._draw.choice([0.0, 0.05, 0.2, 0.4])))

    def _annotate(self, _: float) -> None:
        volume = self._draw.choice(self._project.with_role("labelled"))
        annotation = volume.read_annotation()
        start = self._draw.randrange(annotation.shape[1] // 2)
        annotation[self._draw.randrange(annotation.shape[0]), start : start + 4, 2:6] = annotation.max()
        revision = volume.write_annotation(annotation, volume.coverage or "dense")
        self._send(events.LabelsChanged(volume=volume.name, revision=revision))

    def _send(self, command: events.Command) -> None:
        self.sent[command.command] += 1
        send(self._run.path, command)


class Watcher:
    """Follows the run as a viewer does, and measures it and itself every second."""

    def __init__(self, run: RunFolder, child: Child, driver: Driver) -> None:
        self.samples: list[Sample] = []
        self.told: Counter[str] = Counter()
        self.step = 0
        self._run, self._child, self._driver = run, child, driver
        self._previews = PreviewReader(run.path)

    def watch(self, seconds: float) -> None:
        """For so many seconds from the first step on, or until the run ends.

        Time in which this process was itself suspended, as a machine that sleeps does it, does not count.
        """
        passed, looked = 0.0, time.monotonic()
        for event in follow(self._run.path, poll_s=0.1):
            if event is not None:
                self._take(event)
            now = time.monotonic()
            passed += min(now - looked, _LOOK_S) if self.step else 0.0
            looked = now
            if passed > seconds or not self._child.alive:
                return
            if self.step:
                self._driver.act(passed)
                if passed > len(self.samples):
                    self.samples.append(_sample(passed, self._child.pid, self._run.path))

    def _take(self, event: events.Event) -> None:
        self.told[event.kind] += 1
        self.step = max(self.step, event.step)
        preview = self._previews.newest() if isinstance(event, events.Previewed) else None
        if preview is not None:
            with suppress(PreviewGone):
                preview.read("prediction")


def main() -> int:
    options = _parse()
    with tempfile.TemporaryDirectory() as place:
        results = _soak(options, Path(place))
    growth = 100 * results["memory_growth"]
    print(f"{results['verdict']}: memory {growth:+.2f} %, {results['steps']} steps", flush=True)
    for fault in results["faults"]:
        print(f"  {fault}")
    if options.out:
        record(options.out, ["python", *sys.argv], results, [options.seed])
    return 1 if results["faults"] else 0


def _soak(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    for name in ("home", "tmp"):
        (place / name).mkdir()
    os.environ.update(HOME=str(place / "home"), TMPDIR=str(place / "tmp"))  # the child's too
    project = Project.open(make_sample_project(place / "soak.crln", roles=ROLES, seed=options.seed))
    run = RunFolder.create(project.path, config.build(_SETTINGS, {"engine": {"threads": options.threads}}))
    child = launch(["train", "--run-folder", str(run.path), "--json"], run.path / "engine.log")
    driver = Driver(project, run, options.seed)
    watcher = Watcher(run, child, driver)
    watcher.watch(60 * options.minutes)
    child.stop(grace_s=60)
    code = child.wait(200)
    faults = [*_growing(watcher.samples), *_left(place, run, code)]
    return {
        "settings": {"minutes": options.minutes, "seed": options.seed, "threads": options.threads},
        "verdict": "unsound" if faults else "sound",
        "faults": faults,
        "memory_growth": _growth(watcher.samples, "memory_mb"),
        "watcher_memory_growth": _growth(watcher.samples, "watcher_mb"),
        "steps": watcher.step,
        "commands": dict(driver.sent),
        "events": dict(watcher.told),
        "samples": [asdict(sample) for sample in watcher.samples[:: max(1, len(watcher.samples) // 60)]],
    }


def _quarters(samples: list[Sample], name: str) -> tuple[list[float], list[float]]:
    """A measure in the second and in the last quarter of the time."""
    values = [float(getattr(sample, name)) for sample in samples]
    quarter = max(1, len(values) // 4)
    return values[quarter : 2 * quarter] or values, values[-quarter:]


def _growth(samples: list[Sample], name: str) -> float:
    early, late = _quarters(samples, name)
    return median(late) / median(early) - 1


def _growing(samples: list[Sample]) -> list[str]:
    """What there is more of in the last quarter than there was in the second."""
    faults = [
        f"{name} grew by {100 * growth:.2f} %"
        for name in ("memory_mb", "watcher_mb")
        if (growth := _growth(samples, name)) > GROWTH
    ]
    for name in ("handles", "threads", "watcher_handles", "files"):
        early, late = _quarters(samples, name)
        if min(late) > max(early):
            faults.append(
                f"{name}: at most {max(early):g} in the second quarter, at least {min(late):g} in the last"
            )
    return faults


def _left(place: Path, run: RunFolder, code: int | None) -> list[str]:
    """What is not as it should be when all is over."""
    faults = [] if code == 0 else [f"the run ended with {code} instead of 0"]
    if (state := run.status().state) != "stopped":
        faults.append(f"the run is {state} instead of stopped")
    faults += [f"left: {path.relative_to(place)}" for path in place.rglob("*") if _is_leftover(path)]
    outside = [path for name in ("home", "tmp") for path in (place / name).iterdir()]
    # torch makes an empty folder for its compiler as it is imported
    faults += [f"written outside: {path}" for path in outside if not path.name.startswith("torchinductor_")]
    return faults


def _is_leftover(path: Path) -> bool:
    in_inbox = path.parent.name == events.INBOX and path.suffix == ".json"
    return in_inbox or path.name in (events.LOCK_FILE, events.REFUSED) or path.name.startswith(TEMPORARY)


def _sample(seconds: float, pid: int, run: Path) -> Sample:
    return Sample(
        seconds=round(seconds, 1),
        memory_mb=_resident_mb(pid),
        handles=_entries(f"/proc/{pid}/fd"),
        threads=_entries(f"/proc/{pid}/task"),
        watcher_mb=_resident_mb(os.getpid()),
        watcher_handles=_entries("/proc/self/fd"),
        files=sum(len(names) for _, _, names in os.walk(run)),
    )


def _entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="from the first step on")
    parser.add_argument("--seed", type=int, default=0, help="of the commands, and of the phantoms")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
