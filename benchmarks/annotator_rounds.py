"""The rounds of one (arm, seed) of `annotator.py`: train, score, choose slices, commit."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

#: Method, and who chooses the slices.
ARMS: dict[str, tuple[str, str]] = {
    "crln+suggestions": ("crln", "suggestions"),
    "crln+random": ("crln", "random"),
    "supervised+random": ("supervised", "random"),
    "full": ("supervised", "all"),
}
ALL_ARMS = ARMS | {
    "crln+random-begun": ("crln", "random-begun"),
    "supervised+suggestions": ("supervised", "suggestions"),
}

#: A constant rate, and a teacher that keeps up with rounds of some tens of iterations.
_SCHEDULE = ["optimiser.power=0.0", "method.teacher.decay=0.95", "method.rectification.after=60"]
_QUIET = ["engine.preview_share=0.0", "engine.checkpoint_every=100000", "engine.keep=1", "engine.threads=1"]

#: Volume, axis and index of an annotated slice.
Place = tuple[str, int, int]


@dataclass(frozen=True)
class Plan:
    """All that the rounds depend on, beside arm and seed."""

    project: Path
    labels: Path | None
    preset: str
    set: list[str]
    work: Path
    pool: int
    held_out: int
    start: int
    add: int
    rounds: int
    first_iterations: int
    iterations: int
    axis: int
    half: bool

    def described(self) -> dict[str, Any]:
        """JSON, without this machine's folders."""
        return asdict(self) | {
            "project": self.project.name,
            "labels": None if self.labels is None else self.labels.name,
            "work": self.work.name,
        }

    def folder(self, arm: str, seed: int) -> Path:
        """Run folder of an arm and a seed."""
        return self.work / f"{self.project.name}-{arm}-seed{seed}"

    def first(self, method: str, seed: int) -> Path:
        """Run folder after the first round, which arms of the same method share."""
        return self.work / f"{self.project.name}-{method}-first-seed{seed}"

    def steps(self, done: int) -> int:
        """Optimiser steps by the end of round `done`, counted from 0."""
        return self.first_iterations + done * self.iterations


def committed(plan: Plan, arm: str, seed: int) -> list[dict[str, Any]]:
    """The rounds that are done, oldest first; refuses those of another plan."""
    path = plan.folder(arm, seed) / "rounds.json"
    if not path.exists():
        return []
    state = json.loads(path.read_text("utf-8"))
    if state["plan"] != plan.described():
        raise SystemExit(f"{path}: rounds of another plan; take another --work")
    return list(state["rounds"])


def run_rounds(plan: Plan, arm: str, seed: int, deadline: float) -> None:
    """Go on from the last committed round until all are done, or the deadline has passed."""
    method, chooser = ALL_ARMS[arm]
    rounds = committed(plan, arm, seed)
    if len(rounds) == plan.rounds or (chooser == "all" and rounds):
        return
    bench = Bench(plan, method, seed, plan.folder(arm, seed))
    while len(rounds) < plan.rounds and time.time() < deadline:
        began = time.perf_counter()
        places = bench.places_for(chooser, rounds)
        last = chooser == "all"  # one round, as long as all of them together
        steps = plan.steps(plan.rounds - 1 if last else len(rounds))
        trainer = bench.train(places, steps) if rounds or last else bench.train_first(places, steps)
        dice, per_class = bench.score(trainer)
        following = [] if last else bench.choose(chooser, trainer, places, len(rounds))
        done = {
            "slices": len(places),
            "iterations": trainer.state.step,
            "dice": dice,
            "per_class": per_class,
            "places": [] if last else places,
            "next": following,
            "seconds": round(time.perf_counter() - began, 1),
        }
        rounds.append(done)
        _commit(plan, arm, seed, rounds)
        print(
            f"{arm} seed {seed}: {len(places)} slices, Dice {100 * dice:.1f}, {done['seconds']} s", flush=True
        )
        if last:
            return


class Bench:
    """Pool, held-out volumes and settings of one arm and seed."""

    def __init__(self, plan: Plan, method: str, seed: int, folder: Path) -> None:
        from napari_crln import config
        from napari_crln.volume.project import Project

        project = Project.open(plan.project)
        self.plan, self.seed, self.folder = plan, seed, folder
        folder.mkdir(parents=True, exist_ok=True)
        overrides = [*_SCHEDULE, *plan.set, *_QUIET, f"method.name={method}", f"seed={seed}"]
        self.settings = config.build(config.load_preset(plan.preset), *map(config.assignment, overrides))
        self.class_names = project.classes.names
        trainable = [v for v in project.volumes.values() if v.role in ("labelled", "unlabelled")]
        self.pool = [read(v, plan) for v in trainable[: plan.pool]]
        self.held_out = [read(v, plan) for v in project.with_role("validation")[: plan.held_out]]

    def places_for(self, chooser: str, rounds: list[dict[str, Any]]) -> list[Place]:
        """The slices that are annotated in the round to come."""
        if chooser == "all":
            axis = self.plan.axis
            return [(c.name, axis, i) for c in self.pool for i in range(c.image.shape[axis])]
        if not rounds:
            return self._first()
        return [tuple(p) for p in (*rounds[-1]["places"], *rounds[-1]["next"])]

    def train(self, places: list[Place], steps: int) -> Any:
        """Go on from the run folder's checkpoint with these slices annotated."""
        from napari_crln.engine.data import TrainingData
        from napari_crln.engine.loop import Trainer

        labelled, unlabelled = self.annotated(places)
        settings = self.settings.model_copy(update={"iterations": steps})
        trainer = Trainer(TrainingData(self.class_names, labelled, unlabelled), settings, self.folder)
        for _event in trainer:
            pass
        if trainer.state.step != steps:
            raise SystemExit("interrupted; the next call of the same command goes on")
        return trainer

    def train_first(self, places: list[Place], steps: int) -> Any:
        """The first round, which is the same for all arms of a method and a seed: the first of them trains it."""
        shared = self.plan.first(self.settings.method.name, self.seed)
        if shared.exists():
            shutil.copytree(shared, self.folder, dirs_exist_ok=True)
            return self.train(places, steps)
        trainer = self.train(places, steps)
        aside = shared.with_name(f".{shared.name}.{os.getpid()}")
        shutil.copytree(self.folder, aside)
        with contextlib.suppress(OSError):  # another arm was quicker
            aside.rename(shared)
        shutil.rmtree(aside, ignore_errors=True)
        return trainer

    def annotated(self, places: list[Place]) -> tuple[list[Any], list[Any]]:
        """Cases with a slice annotated, all else IGNORE; and cases without."""
        from napari_crln.types import IGNORE

        labelled, unlabelled = [], []
        for case in self.pool:
            own = [(axis, index) for name, axis, index in places if name == case.name]
            target = np.full(case.target.shape, IGNORE, np.int16)
            for axis, index in own:
                plane = (slice(None),) * axis + (index,)
                target[plane] = case.target[plane]
            (labelled if own else unlabelled).append(replace(case, target=target if own else None))
        return labelled, unlabelled

    def score(self, trainer: Any) -> tuple[float, dict[str, float]]:
        """Mean Dice of the held-out volumes, over classes and volumes, and by class."""
        from napari_crln.engine.validate import validate

        found = validate(trainer.state, self.held_out, trainer.settings, trainer.device)
        return found.dice, found.per_class

    def choose(self, chooser: str, trainer: Any, places: list[Place], number: int) -> list[Place]:
        """The slices to annotate next."""
        if chooser.startswith("random"):
            begun = chooser == "random-begun"
            return self._at_random(places, self.plan.add, number + 1, 0.0, begun=begun)
        from napari_crln.engine.suggest import suggest

        labelled, unlabelled = self.annotated(places)
        found = suggest(
            trainer.state.learner,
            trainer.settings,
            [(case, case.target) for case in (*labelled, *unlabelled)],
            step=trainer.state.step,
            count=self.plan.add,
            axes=(self.plan.axis,),
        )
        return [(item.volume, item.axis, item.index) for item in found.items]

    def _first(self) -> list[Place]:
        """The same for all arms of a seed: from the middle third, of different volumes, as anybody would start."""
        return self._at_random([], self.plan.start, 0, 1 / 3, apart=True)

    def _at_random(
        self,
        taken: list[Place],
        count: int,
        number: int,
        margin: float,
        apart: bool = False,
        begun: bool = False,
    ) -> list[Place]:
        rng = np.random.default_rng([self.seed, number, 1])
        axis, chosen = self.plan.axis, list[Place]()
        while len(chosen) < count:
            cases = self._begun([*taken, *chosen]) if begun else self.pool
            case = cases[int(rng.integers(len(cases)))]
            depth = case.image.shape[axis]
            place = (case.name, axis, int(rng.integers(round(margin * depth), round((1 - margin) * depth))))
            double = apart and any(place[0] == other[0] for other in chosen)
            if place not in taken and place not in chosen and not double:
                chosen.append(place)
        return chosen

    def _begun(self, places: list[Place]) -> list[Any]:
        """The volumes that suggestions would go on with; all where there are none."""
        from napari_crln.engine.ranking import PER_VOLUME

        counts = Counter(name for name, _, _ in places)
        return [case for case in self.pool if 0 < counts[case.name] < PER_VOLUME] or self.pool


def read(volume: Any, plan: Plan) -> Any:
    """A volume in memory with its whole truth, at half the resolution if the plan says so."""
    from napari_crln.engine.cohort import Case

    image, target = volume.read_image(), _truth(volume, plan.labels)
    spacing = volume.grid.spacing
    if plan.half:
        image, target = _halved(image), target[::2, ::2, ::2][tuple(slice(n // 2) for n in target.shape)]
        spacing = tuple(2 * s for s in spacing)
    return Case(volume.name, image, volume.normalisation, np.ascontiguousarray(target), spacing)


def _truth(volume: Any, labels: Path | None) -> Any:
    if volume.has_annotation:
        return volume.read_targets()
    from napari_crln.volume.checks import check_same_grid
    from napari_crln.volume.nifti import read_label

    if labels is None:
        raise SystemExit(f"{volume.name} has no label: name the folder of its truth by --labels")
    path = labels / volume.source.name
    found = read_label(path)
    check_same_grid(volume.grid, found.grid, path)
    return volume.classes.targets(volume.classes.encode(found.voxels, where=path))


def _halved(image: Any) -> Any:
    """Means of 2×2×2 voxels, in the stored dtype."""
    d, h, w = (n // 2 for n in image.shape)
    blocks = image[: 2 * d, : 2 * h, : 2 * w].reshape(d, 2, h, 2, w, 2)
    means = blocks.astype(np.float32).mean((1, 3, 5))
    return (np.round(means) if image.dtype.kind in "iu" else means).astype(image.dtype)


def _commit(plan: Plan, arm: str, seed: int, rounds: list[dict[str, Any]]) -> None:
    path = plan.folder(arm, seed) / "rounds.json"
    aside = path.with_name(f".rounds.{os.getpid()}")
    aside.write_text(json.dumps({"plan": plan.described(), "rounds": rounds}, indent=1), "utf-8")
    aside.replace(path)
