"""Train the ladder of methods on one project, score held-out volumes, sum up: a queue that can be stopped and resumed.

    python benchmarks/ladder.py hip.crln --preset hippocampus --arms supervised,mean-teacher,crln --seeds 0,1,2 \
        --out benchmarks/results/hippocampus-8

Each (arm, seed) is a run of the project named `<arm>-seed<k>`; a finished one is not trained again, an
interrupted one goes on from its last checkpoint. Scores are of the *last* checkpoint on the volumes of role
`validation`, which no part of training sees (`engine.validate_every` stays 0). `--test-predictions` writes the median
run's labels of the `test` volumes as NIfTI.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import arms
from record import record


def main() -> None:
    options = _parse()
    if options.one:
        arm, seed = options.one.rsplit(":", 1)
        run_one(options, arm, int(seed))
        return
    jobs = [(arm, seed) for seed in options.seeds for arm in options.arms]
    _run_queue(options, [job for job in jobs if not _result(options, *job).exists()])
    summary = summarise(options)
    record(options.out / "summary.json", ["python", *arms.public(sys.argv)], summary, options.seeds)
    if options.test_predictions:
        for arm in options.arms:
            predict_test(options, arm, summary[arm]["median_seed"])


def run_one(options: argparse.Namespace, arm: str, seed: int) -> None:
    """Train one arm with one seed, and score it."""
    from napari_crln.engine.data import TrainingData
    from napari_crln.run.folder import RunFolder
    from napari_crln.volume.project import Project

    name = f"{options.tag}{arm}-seed{seed}"
    settings = arms.settings_of(options.preset, arm, seed, options.set)
    project = Project.open(options.project)
    folder = _find_run(project.path, name) or RunFolder.create(project.path, settings, name)
    data = TrainingData.of(project, settings.engine)
    if folder.status().state != "finished" and not arms.train(data, settings, folder.path):
        sys.exit(f"{name} was interrupted; the next call of the same command goes on with it")
    learner = arms.trained_learner(settings, data.class_names, folder.path)
    result: dict[str, Any] = {
        "arm": arm,
        "seed": seed,
        "iterations": settings.iterations,
        "overrides": [*options.set, *arms.overrides_of(arm)],
        **arms.history(folder.path),
    }
    result |= arms.score_ways(learner, settings, data)
    record(_result(options, arm, seed), ["python", *arms.public(sys.argv)], result, [seed])


def summarise(options: argparse.Namespace) -> dict[str, Any]:
    """Median and range over seeds of each arm's scores."""
    return {
        arm: arms.summarise(
            [json.loads(_result(options, arm, s).read_text("utf-8"))["results"] for s in options.seeds]
        )
        for arm in options.arms
    }


def predict_test(options: argparse.Namespace, arm: str, seed: int) -> None:
    """Labels of the test volumes by the run of one seed, as NIfTI on the source grids."""
    from napari_crln.engine.segment import Segmenter
    from napari_crln.volume.nifti import write_labels
    from napari_crln.volume.project import Project

    project = Project.open(options.project)
    run = _find_run(project.path, f"{options.tag}{arm}-seed{seed}")
    segmenter = Segmenter(run.path)
    folder = options.out / arm
    folder.mkdir(parents=True, exist_ok=True)
    for volume in project.with_role("test"):
        path = folder / volume.source.name
        if not path.exists():
            write_labels(path, segmenter(volume.image, volume.normalisation), volume.source, project.classes)


def _find_run(project: Path, name: str) -> Any:
    """The run of that name, whatever its date."""
    from napari_crln.run.folder import runs

    return next((run for run in runs(project) if run.name[len("2026-01-01-") :] == name), None)


def _run_queue(options: argparse.Namespace, jobs: list[tuple[str, int]]) -> None:
    """Run jobs as processes of their own, `--jobs` at a time."""
    running: list[subprocess.Popen[bytes]] = []
    for arm, seed in jobs:
        while len(running) >= options.jobs:
            time.sleep(1)
            running = [p for p in running if p.poll() is None]
        print(f"start {arm} seed {seed}", flush=True)
        running.append(subprocess.Popen([sys.executable, *sys.argv, "--one", f"{arm}:{seed}"]))
    for process in running:
        process.wait()


def _result(options: argparse.Namespace, arm: str, seed: int) -> Path:
    path: Path = options.out / f"{arm}-seed{seed}.json"
    return path


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--arms", type=lambda t: t.split(","), default=["supervised", "mean-teacher", "crln"])
    parser.add_argument("--seeds", type=lambda t: [int(s) for s in t.split(",")], default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], help="override of every arm")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tag", default="", help="prefix of the runs' names")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--test-predictions", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
