"""The left-atrium benchmark: the whole ladder, in calls of limited time, on a machine with little installed.

Once, where napari-crln is installed (labels of all 80 training cases go into the pack; a run is shown those of its first
N alone):

    napari-crln import ../shared/data/la2018 la80.crln --labelled 80 --normalisation zscore
    python benchmarks/la2018.py pack la80.crln la2018.pack          # about 100 MB in files of at most 15 MB

Then, again and again, until it says that nothing is left to do:

    PYTHONPATH=src python benchmarks/la2018.py run la2018.pack --state la2018.state --labels 8 --seeds 0,1,2 \\
        --iterations 6000 --fold final --budget 540 --device cuda

It needs torch, NumPy, SciPy, safetensors and pydantic. State is one folder, no file of it above 15 MB; each (arm, seed) is
trained, then predicted case by case, and a call goes on where the last one stopped, killed or not (training from its last
checkpoint). `--fold tune` trains on the first 64 training cases and scores the last 16; `--fold final` trains on all 80 and scores
nothing: the test labels are kept elsewhere. Either way the 20 test images are predicted, with the *last* weights. Scores are also
given without clues. `--half` is for CPUs: half resolution, 8 filters.

    python benchmarks/la2018.py nifti la2018.state la80.crln benchmarks/results/la2018-8   # to commit, and to be scored

To carry state through a place that takes few files: `tar cf - la2018.state | split -b 15M - state.`; a run that is under way takes
about 125 MB (student, teacher and momentum in float32, so that it goes on bit for bit), a finished one 1 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import arms
import numpy as np
from numpy.typing import NDArray
from pack import Pack, Packed, halved, read_pack, write_pack
from parts import join_folder, split_folder
from record import record

from napari_crln import config, events
from napari_crln.engine.cohort import Case
from napari_crln.engine.data import TrainingData

#: In the order in which they are run: the claim and its control first, as device time may end at any point.
LADDER = ["crln", "mean-teacher", "supervised", "rectified", "clues", "supervised-all"]
#: Cases at the end of the list that a tuning run is scored on.
HELD_OUT = 16
#: Half resolution, for CPUs: a narrow V-Net, and patches of about the full ones' millimetres.
HALF = ["batches.patch=[32, 48, 48]", "batches.foreground=0", "predicting.overlap=0.5"]


def main() -> None:
    options = _parse()
    options.act(options)


def run(options: argparse.Namespace) -> None:
    """Train and predict what is left to do, for `--budget` seconds."""
    deadline = time.monotonic() + options.budget
    pack = read_pack(options.pack)
    pack = halved(pack) if options.half else pack
    jobs = [Job(options, arm, seed) for seed in options.seeds for arm in options.arms]
    for job in jobs:
        if not job.is_done and not job.work(pack, lambda: time.monotonic() > deadline):
            break
    left = [job.name for job in jobs if not job.is_done]
    _summarise(options)
    print(f"left to do: {', '.join(left)}" if left else "nothing is left to do", flush=True)


@dataclass
class Job:
    """One arm with one seed: its folder in the state, and what it trains on."""

    options: argparse.Namespace
    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{_group(self.options)}-{self.arm}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        path: Path = self.options.state / self.name
        return path

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    @property
    def is_done(self) -> bool:
        return self.result.exists()

    def work(self, pack: Pack, late: Callable[[], bool]) -> bool:
        """Train, predict and score, as far as time goes; whether it is done."""
        settings = self.settings()
        self._claim(settings)
        data, tests = self.data(pack)
        print(f"{self.name}: {len(data.labelled)} labelled, {len(data.unlabelled)} unlabelled", flush=True)
        run = self._resumed()
        kept = lambda: _keep(run, self.folder / "run")  # noqa: E731
        if not (self._trained(run, settings) or arms.train(data, settings, run, stop=late, saved=kept)):
            return False
        kept()
        if not self._predict(settings, pack, run, [*data.validation, *tests], late):
            return False
        self._record(settings, data, pack, run)
        shutil.rmtree(run)
        if not self.options.keep_checkpoints:
            shutil.rmtree(self.folder / "run")
        return True

    def settings(self) -> config.RunConfig:
        """The arm's configuration; what is not learned from is switched off."""
        o = self.options
        engine = [f"engine.device={o.device}", "engine.preview_share=0", "engine.cohort=resident"]
        engine += [f"engine.checkpoint_every={o.checkpoint_every}", "engine.log_every=20", "engine.keep=1"]
        half = HALF if o.half else []
        overrides = [*half, f"iterations={o.iterations}", *engine, *o.set]
        arm = self.arm.replace("supervised-all", "supervised")
        return arms.settings_of("la2018-cpu" if o.half else "la2018", arm, self.seed, overrides)

    def data(self, pack: Pack) -> tuple[TrainingData, list[Case]]:
        """The run's volumes: the first N labelled, the others without their labels; and the test images."""
        pool = pack.of_role("labelled")
        held_out = HELD_OUT if self.options.fold == "tune" else 0
        start = len(pool) - held_out
        count = start if self.arm.partition("+")[0] == "supervised-all" else self.options.labels
        data = arms.split(pool, pack.class_names, count, (start, len(pool)))
        return data, [replace(case, target=None) for case in pack.of_role("test")]

    def predicted(self, case: Case, clues: bool) -> Path:
        """The file of a case's prediction."""
        kind = "predictions" if clues else "predictions-without-clues"
        return self.folder / kind / f"{case.name}.npz"

    def _claim(self, settings: config.RunConfig) -> None:
        """Write the configuration down, or refuse to go on with another one."""
        path, mine = self.folder / "settings.json", settings.model_dump(mode="json")
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(mine, indent=1), "utf-8")
        found = json.loads(path.read_text("utf-8"))
        if _learned(found) != _learned(mine):
            sys.exit(
                f"{self.name} was begun with other settings ({path}): take another --state, or the same settings"
            )

    def _resumed(self) -> Path:
        """The run's folder in the place of work, with what the state has of it where that is further on: trained elsewhere."""
        state: Path = self.options.state
        folder = (self.options.work or state.with_name(f"{state.name}.work")) / self.name
        if folder.exists() and _newest_step(self.folder / "run") > _newest_step(folder):
            shutil.rmtree(folder)
        # Of a killed call, maybe under another host's name: the work folder has one owner.
        (folder / events.LOCK_FILE).unlink(missing_ok=True)
        if not folder.exists() and not join_folder(self.folder / "run", folder):
            folder.mkdir(parents=True)
        return folder

    def _trained(self, run: Path, settings: config.RunConfig) -> bool:
        return (run / events.CHECKPOINTS / f"step-{settings.iterations:08d}").exists()

    def _predict(
        self, settings: config.RunConfig, pack: Pack, run: Path, cases: list[Case], late: Callable[[], bool]
    ) -> bool:
        """Predict the cases that have no file yet; False when time is up before the last."""
        learner = arms.trained_learner(settings, pack.class_names, run)
        for case in cases:
            if all(self.predicted(case, clues).exists() for clues in self._ways(settings)):
                continue
            if late():
                return False
            for clues, labels in arms.predict_ways(learner, settings, case).items():
                _save(self.predicted(case, clues), labels)
        return True

    def _ways(self, settings: config.RunConfig) -> list[bool]:
        return [True, False] if settings.method.uses_clues else [True]

    def _record(self, settings: config.RunConfig, data: TrainingData, pack: Pack, run: Path) -> None:
        o = self.options
        results: dict[str, Any] = {
            "arm": self.arm,
            "seed": self.seed,
            "labels": len(data.labelled),
            "unlabelled": len(data.unlabelled),
            "fold": o.fold,
            "half": o.half,
            "iterations": settings.iterations,
            "settings": settings.model_dump(mode="json"),
            **arms.history(run),
        }
        for clues in self._ways(settings):
            if data.validation:
                kind = "validation" if clues else "validation_without_clues"
                results[kind] = arms.score(
                    data.validation, lambda case, c=clues: _load(self.predicted(case, c)), pack.class_names
                )
        record(self.result, ["python", *arms.public(sys.argv)], results, [self.seed])


def make_pack(options: argparse.Namespace) -> None:
    """Write a project as a pack."""
    from napari_crln.engine.data import read_case
    from napari_crln.volume.project import Project

    project = Project.open(options.project)
    cases = [Packed(v.role, read_case(v, v.has_annotation)) for v in project.volumes.values()]
    size = write_pack(options.pack, Pack(project.classes.names, cases))
    print(f"{len(cases)} volumes, {size / 1e6:.1f} MB")


def nifti(options: argparse.Namespace) -> None:
    """Predictions of finished runs as NIfTI on the source grids, with their results beside them."""
    from napari_crln.volume.nifti import write_labels
    from napari_crln.volume.project import Project

    project = Project.open(options.project)
    for result in sorted(options.state.glob("*/result.json")):
        entry = json.loads(result.read_text("utf-8"))["results"]
        if entry["half"]:
            continue
        name = f"{entry['arm']}-seed{entry['seed']}"
        for kind in ("predictions", "predictions-without-clues"):
            folder = options.out / f"{name}{kind.removeprefix('predictions')}"
            for volume in project.with_role("test"):
                source = result.parent / kind / f"{volume.name}.npz"
                if source.exists() and not (folder / volume.source.name).exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    write_labels(folder / volume.source.name, _load(source), volume.source, project.classes)
        shutil.copyfile(result, options.out / f"{name}.json")


def _group(options: argparse.Namespace) -> str:
    """What the names of runs that are compared with each other begin with."""
    return f"{'half-' if options.half else ''}{options.fold}-{options.labels}"


def _summarise(options: argparse.Namespace) -> None:
    """Table of what is done, by this call or an earlier one, by arm, in the state's `summary-….json`."""
    paths = sorted(options.state.glob(f"{_group(options)}-*-seed*/result.json"))
    results = [json.loads(path.read_text("utf-8"))["results"] for path in paths]
    by_arm = {arm: [r for r in results if r["arm"] == arm] for arm in (r["arm"] for r in results)}
    found = {arm: arms.summarise(by_arm[arm]) for arm in sorted(by_arm, key=_rung)}
    for arm, summary in found.items():
        scores = summary.get("validation", {})
        shown = ", ".join(f"{metric} {value['median']:.3f}" for metric, value in scores.items())
        print(f"{arm:16s} seeds {summary['seeds']}: {shown or 'predicted'}")
    if found:
        seeds = sorted({r["seed"] for r in results})
        name = f"summary-{_group(options)}.json"
        record(options.state / name, ["python", *arms.public(sys.argv)], found, seeds)


def _rung(arm: str) -> tuple[int, str]:
    """Where an arm stands in tables: in the ladder's order, others after it."""
    return (LADDER.index(arm) if arm in LADDER else len(LADDER)), arm


def _keep(run: Path, target: Path) -> None:
    """Make `target` what the run needs to go on, in small files: no lock, no inbox."""
    chosen = run.with_name(f".{run.name}.essence")
    shutil.rmtree(chosen, ignore_errors=True)
    chosen.mkdir()
    shutil.copyfile(run / events.EVENTS_FILE, chosen / events.EVENTS_FILE)
    shutil.copytree(run / events.CHECKPOINTS, chosen / events.CHECKPOINTS, copy_function=_link)
    split_folder(chosen, target)
    shutil.rmtree(chosen)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # of another kind of file system
        shutil.copyfile(source, target)


def _newest_step(run: Path) -> int:
    """Of a run's checkpoints, be they split or not; -1 without any."""
    steps = [path.name.removeprefix("step-") for path in (run / events.CHECKPOINTS).glob("step-*")]
    return max((int(step) for step in steps if step.isdigit()), default=-1)


def _learned(settings: dict[str, Any]) -> dict[str, Any]:
    """What the weights depend on: a run may go on with another device or rhythm of checkpoints."""
    return {key: value for key, value in settings.items() if key not in ("engine", "predicting")}


def _save(path: Path, labels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new.npz")
    np.savez_compressed(aside, labels=labels)
    aside.replace(path)


def _load(path: Path) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as archive:
        return np.asarray(archive["labels"])


def _arms(text: str) -> list[str]:
    chosen = LADDER if text == "ladder" else text.split(",")
    if unknown := {a.split("+")[0] for a in chosen} - {*LADDER, *arms.ARMS}:
        raise argparse.ArgumentTypeError(f"unknown arms: {', '.join(unknown)}")
    return chosen


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("pack", help="write a project as a pack")
    one.add_argument("project", type=Path)
    one.add_argument("pack", type=Path)
    one.set_defaults(act=make_pack)
    two = commands.add_parser("run", help="train and predict what is left to do")
    _add_run_options(two)
    two.set_defaults(act=run)
    three = commands.add_parser("nifti", help="write predictions on the source grids")
    for name in ("state", "project", "out"):
        three.add_argument(name, type=Path)
    three.set_defaults(act=nifti)
    return parser.parse_args()


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pack", type=Path)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="where runs are under way; default: <state>.work")
    parser.add_argument("--arms", type=_arms, default=LADDER, help="comma-separated, or `ladder`")
    parser.add_argument("--labels", type=int, default=8)
    parser.add_argument("--seeds", type=lambda t: [int(s) for s in t.split(",")], default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=6000)
    parser.add_argument("--fold", choices=("tune", "final"), default="tune")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds of this call")
    parser.add_argument("--checkpoint-every", type=int, default=1000)
    parser.add_argument("--keep-checkpoints", action="store_true", help="of finished runs too")
    parser.add_argument("--half", action="store_true", help="half resolution and 8 filters, for CPUs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for every arm")


if __name__ == "__main__":
    main()
