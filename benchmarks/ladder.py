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
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import record

#: Each rung adds one thing to the one before.
ARMS: dict[str, list[str]] = {
    "supervised": ["method.name=supervised"],
    "mean-teacher": ["method.name=mean-teacher"],
    "cutmix": ["method.name=cutmix"],
    "ua-mt": ["method.name=ua-mt"],
    "clues": ["method.rectification.enabled=false", "method.cps.enabled=false"],
    "rectified": ["method.cps.enabled=false"],
    "crln": [],
}


def main() -> None:
    options = _parse()
    if options.one:
        arm, seed = options.one.rsplit(":", 1)
        run_one(options, arm, int(seed))
        return
    jobs = [(arm, seed) for seed in options.seeds for arm in options.arms]
    _run_queue(options, [job for job in jobs if not _result(options, *job).exists()])
    summary = summarise(options)
    record(options.out / "summary.json", ["python", *_public(sys.argv)], summary, options.seeds)
    if options.test_predictions:
        for arm in options.arms:
            predict_test(options, arm, summary[arm]["median_seed"])


def run_one(options: argparse.Namespace, arm: str, seed: int) -> None:
    """Train one arm with one seed, and score it."""
    from napari_crln import config
    from napari_crln.engine.loop import Trainer
    from napari_crln.events import Stepped
    from napari_crln.run.folder import RunFolder
    from napari_crln.volume.project import Project

    name = f"{options.tag}{arm}-seed{seed}"
    rung, *extras = arm.split("+")  # `crln+method.cps.xi=0.5` is a rung with one more override
    overrides = [*options.set, *ARMS[rung], *extras, f"seed={seed}"]
    settings = config.build(config.load_preset(options.preset), *map(config.assignment, overrides))
    project = Project.open(options.project)
    folder = _find_run(project.path, name) or RunFolder.create(project.path, settings, name)
    started, steps = time.perf_counter(), []
    if folder.status().state != "finished":
        steps = [e for e in Trainer.of(project, settings, folder.path) if isinstance(e, Stepped)]
    if folder.status().state != "finished":
        sys.exit(f"{name} was interrupted; the next call of the same command goes on with it")
    result: dict[str, Any] = {
        "arm": arm,
        "seed": seed,
        "iterations": settings.iterations,
        "train_seconds": round(time.perf_counter() - started, 1),
        "overrides": overrides,
        "last": steps[-1].model_dump(include={"losses", "measures"}) if steps else {},
        "validation": score(project, folder.path, None),
    }
    if settings.method.uses_clues:
        result["validation_without_clues"] = score(project, folder.path, False)
    record(_result(options, arm, seed), ["python", *_public(sys.argv)], result, [seed])


def score(project: Any, folder: Path, clues: bool | None) -> dict[str, Any]:
    """Mean scores over the validation volumes and their classes."""
    from napari_crln.engine.evaluate import Case, evaluate
    from napari_crln.engine.segment import Segmenter

    segmenter = Segmenter(folder, clues=clues)
    cases = [
        Case(v.name, segmenter(v.image, v.normalisation), v.read_targets(), v.grid.spacing)
        for v in project.with_role("validation")
    ]
    return json.loads(evaluate(cases, project.classes.names).model_dump_json(exclude={"cases"}))


def summarise(options: argparse.Namespace) -> dict[str, Any]:
    """Median and range over seeds of each arm's mean Dice and 95HD."""
    return {arm: _summarise_arm(options, arm) for arm in options.arms}


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


def _summarise_arm(options: argparse.Namespace, arm: str) -> dict[str, Any]:
    results = [json.loads(_result(options, arm, seed).read_text())["results"] for seed in options.seeds]
    summary: dict[str, Any] = {"seeds": options.seeds}
    for kind in ("validation", "validation_without_clues"):
        for metric in ("dice", "jaccard", "hd95", "asd"):
            values = [r[kind]["overall"]["statistics"][metric]["mean"] for r in results if kind in r]
            if values:
                summary.setdefault(kind, {})[metric] = {
                    "median": statistics.median(values),
                    "range": [min(values), max(values)],
                    "by_seed": values,
                }
    by_seed = summary["validation"]["dice"]["by_seed"]
    middle = sorted(by_seed)[len(by_seed) // 2]
    return {**summary, "median_seed": options.seeds[by_seed.index(middle)]}


def _result(options: argparse.Namespace, arm: str, seed: int) -> Path:
    path: Path = options.out / f"{arm}-seed{seed}.json"
    return path


def _public(arguments: list[str]) -> list[str]:
    """The command without this machine's folders."""
    return [Path(a).name if a.startswith("/") else a for a in arguments]


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
