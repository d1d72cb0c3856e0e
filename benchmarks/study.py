"""Which of the method's open choices are right: a queue of paired runs on a CPU that can be stopped at any time.

    python benchmarks/study.py benchmarks/study.toml --pack hippocampus=hip.pack --pack hippocampus-4=hip.pack \\
        --pack la-half=la2018.pack --out benchmarks/results/study --jobs 2 --cpu-hours 6

Questions stand in the TOML file, likeliest gains first. Each arm runs once with the first seed, in that order, beside the
reference with the same seed; then the arms run with further seeds, those that gained most first, until the CPU hours are spent
(those of earlier calls counted in). A question that names `seeds` gets all of them at once. One JSON a run
(`<data>/<arm>-seed<k>.json`), never run twice; `summary.json` has the paired differences. A difference is claimed for
three seeds at least. Runs that were stopped go on from their last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import arms
from pack import halved, read_pack
from record import record

from napari_crln import events

SEEDS = (0, 1, 2)
#: Dice, in points, by which an arm may trail the reference with the first seed and still get further seeds.
PATIENCE = 1.0


class Job(NamedTuple):
    """One run."""

    data: str
    arm: str
    seed: int

    @property
    def file(self) -> Path:
        """Of its result, within the study's folder."""
        return Path(self.data) / f"{re.sub(r'[^A-Za-z0-9.=_-]+', '-', self.arm)}-seed{self.seed}.json"


@dataclass(frozen=True)
class Question:
    """Arms that are compared with a reference on one data set."""

    name: str
    data: str
    reference: str
    arms: list[str]
    seeds: list[int] = field(default_factory=list)


def main() -> None:
    options = _parse()
    if options.one:
        run_one(options, Job(**json.loads(options.one)))
        return
    plan = tomllib.loads(options.study.read_text("utf-8"))
    questions = [Question(**q) for q in plan["question"] if q["data"] in options.pack]
    Queue(options, questions).work()
    summary = [summarise(options.out, question) for question in questions]
    record(options.out / "summary.json", ["python", *arms.public(sys.argv)], {"questions": summary}, SEEDS)
    for found in summary:
        _show(found)


class Queue:
    """Runs jobs as processes, the next one chosen by what is known by then."""

    def __init__(self, options: argparse.Namespace, questions: list[Question]) -> None:
        self._options, self._questions = options, questions
        self._running: dict[Job, subprocess.Popen[bytes]] = {}
        self._failed: set[Job] = set()

    def work(self) -> None:
        """Until nothing is left to do, or the CPU hours are spent."""
        while self._may_start() or self._running:
            job = self._next() if self._may_start() else None
            if job is not None and len(self._running) < self._options.jobs:
                self._running[job] = self._start(job)
                continue
            if not self._running:
                break
            time.sleep(0.5)
            self._collect()

    def _next(self) -> Job | None:
        jobs = candidates(self._options.out, self._questions)
        return next((j for j in jobs if j not in self._running and j not in self._failed), None)

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        print(f"start {job.data}: {job.arm}, seed {job.seed}", flush=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *sys.argv, "--one", json.dumps(job._asdict())]
        return subprocess.Popen(command, env=environment)

    def _collect(self) -> None:
        for job, process in list(self._running.items()):
            if process.poll() is not None:
                del self._running[job]
                if process.returncode:
                    self._failed.add(job)
                    print(
                        f"failed ({process.returncode}): {job.data}: {job.arm}, seed {job.seed}", flush=True
                    )

    def _may_start(self) -> bool:
        return spent_hours(self._options.out) < self._options.cpu_hours


def candidates(out: Path, questions: list[Question]) -> Iterator[Job]:
    """What is left to do, the most wanted first."""
    first = [Job(q.data, arm, seed) for q in questions for arm, seed in _opening(q)]
    gains = {
        (q.data, arm, q.reference): gain
        for q in questions
        for arm in q.arms
        if (gain := _gain(out, q, arm)) is not None and gain > -PATIENCE
    }
    promising = sorted(gains, key=lambda key: -gains[key])
    later = [
        Job(data, name, seed)
        for data, arm, reference in promising
        for seed in SEEDS[1:]
        for name in (reference, arm)
    ]
    for job in dict.fromkeys([*first, *later]):
        if not (out / job.file).exists():
            yield job


def run_one(options: argparse.Namespace, job: Job) -> None:
    """Train one arm with one seed, and score it."""
    plan = tomllib.loads(options.study.read_text("utf-8"))["data"][job.data]
    pack = read_pack(options.pack[job.data])
    pack = halved(pack) if plan.get("half") else pack
    fixed = ["engine.threads=1", "engine.device=cpu", "engine.preview_share=0", "engine.cohort=resident"]
    settings = arms.settings_of(plan["preset"], job.arm, job.seed, [*plan["set"], *fixed])
    data = arms.split(pack.of_role("labelled"), pack.class_names, plan["labels"], tuple(plan["validation"]))
    run = options.out / "work" / job.file.with_suffix("")
    resumed = run.exists()
    run.mkdir(parents=True, exist_ok=True)
    # Of a killed call, maybe under another host's name: the work folder has one owner.
    (run / events.LOCK_FILE).unlink(missing_ok=True)
    if not arms.train(data, settings, run):
        sys.exit(3)
    learner = arms.trained_learner(settings, data.class_names, run)
    results: dict[str, Any] = {**job._asdict(), **arms.history(run), "overrides": arms.overrides_of(job.arm)}
    if not resumed:
        results["cpu_seconds"] = time.process_time()
    results |= arms.score_ways(learner, settings, data)
    record(options.out / job.file, ["python", *arms.public(sys.argv)], results, [job.seed])
    shutil.rmtree(run)


def summarise(out: Path, question: Question) -> dict[str, Any]:
    """Dice of each arm by seed, in points, and its paired differences to the reference."""
    reference = {seed: _dice(out, Job(question.data, question.reference, seed)) for seed in SEEDS}
    table: dict[str, Any] = {"question": question.name, "data": question.data, "reference": reference}
    for arm in [question.reference, *question.arms]:
        by_seed = {seed: _dice(out, Job(question.data, arm, seed)) for seed in SEEDS}
        differences = [
            v - reference[s] for s, v in by_seed.items() if v is not None and reference[s] is not None
        ]  # type: ignore[operator]
        without = [_dice(out, Job(question.data, arm, s), "validation_without_clues") for s in SEEDS]
        table.setdefault("arms", {})[arm] = {
            "dice": {str(s): v for s, v in by_seed.items() if v is not None},
            "without_clues": [v for v in without if v is not None],
            "differences": differences,
            "median_difference": statistics.median(differences) if differences else None,
        }
    return table | {"reference": question.reference}


def spent_hours(out: Path) -> float:
    """CPU hours of the study's runs so far; of those that do not say, the hours by the clock: each has one thread."""
    results = (_result(path) for path in out.glob("*/*.json"))
    return sum(result.get("cpu_seconds", result.get("train_seconds", 0.0)) for result in results) / 3600


def _opening(question: Question) -> Iterator[tuple[str, int]]:
    for seed in question.seeds or SEEDS[:1]:
        yield question.reference, seed
        for arm in question.arms:
            yield arm, seed


def _gain(out: Path, question: Question, arm: str) -> float | None:
    """Dice over the reference with the first seed, in points; None while either is missing."""
    mine, theirs = (_dice(out, Job(question.data, a, SEEDS[0])) for a in (arm, question.reference))
    return None if mine is None or theirs is None else mine - theirs


def _dice(out: Path, job: Job, kind: str = "validation") -> float | None:
    """Mean Dice of a run in points; None where it has not been scored so."""
    path = out / job.file
    scored = _result(path).get(kind) if path.exists() else None
    return None if scored is None else 100 * float(scored["overall"]["statistics"]["dice"]["mean"])


def _result(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8"))["results"])


def _show(found: dict[str, Any]) -> None:
    print(f"\n{found['question']} ({found['data']}; against {found['reference']})")
    for arm, row in found["arms"].items():
        dice = " ".join(f"{value:.2f}" for value in row["dice"].values()) or "not run"
        gains = " ".join(f"{value:+.2f}" for value in row["differences"])
        print(f"  {arm:80s} {dice:24s} {gains}")


def _pair(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    return name, Path(path)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path)
    parser.add_argument("--pack", type=_pair, action="append", required=True, metavar="DATA=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cpu-hours", type=float, default=6.0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.pack = dict(options.pack)
    return options


if __name__ == "__main__":
    main()
