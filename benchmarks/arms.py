"""What the accuracy benchmarks share: the arms of the ladder, a run that stops in time, and its scores.

Imports torch, NumPy, SciPy, safetensors and the package's core (pydantic), nothing else, so that it also runs on
a bare machine.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_crln import config, events
from napari_crln.engine import checkpoint, evaluate
from napari_crln.engine.cohort import Case
from napari_crln.engine.data import TrainingData
from napari_crln.engine.device import autocast
from napari_crln.engine.loop import Trainer
from napari_crln.engine.predict import Windowing, blend_slabs, most_probable, predict_labels
from napari_crln.engine.state import build_learner, load_learner
from napari_crln.engine.validate import InferNetwork
from napari_crln.method.learner import Learner
from napari_crln.method.rectify import fuse

#: Each rung adds one thing to the one before; then the peers.
ARMS: dict[str, list[str]] = {
    "supervised": ["method.name=supervised"],
    "mean-teacher": ["method.name=mean-teacher"],
    "clues": ["method.rectification.enabled=false", "method.cps.enabled=false"],
    "rectified": ["method.cps.enabled=false"],
    "crln": [],
    "ua-mt": ["method.name=ua-mt"],
    "cutmix": ["method.name=cutmix"],
    "bcp": ["method.name=bcp"],
}
METRICS: tuple[evaluate.Metric, ...] = ("dice", "jaccard", "hd95", "asd")


def settings_of(preset: str, arm: str, seed: int, overrides: Sequence[str] = ()) -> config.RunConfig:
    """Configuration of an arm; `crln+method.cps.xi=0.5` is a rung with one more override.

    What belongs to a method's schedule follows the run's length, as `train` plans it: rectification and BCP's
    second stage start after a quarter of a short run, and UA-MT's weight and threshold ramp up over all of it.
    """
    chosen = [*overrides, *overrides_of(arm), f"seed={seed}"]
    values = [config.load_preset(preset), *map(config.assignment, chosen)]
    iterations = config.build(*values).iterations
    quarter = iterations // 4
    planned = {
        "rectification": {"after": min(config.Rectification().after, quarter)},
        "bcp": {"pretrain": min(config.BidirectionalCopyPaste().pretrain, quarter)},
        "ua_mt": {"ramp_up": iterations},
    }
    return config.build({"method": planned}, *values)


def overrides_of(arm: str) -> list[str]:
    """What an arm sets: its rung's switches, and what is added to its name by `+`."""
    rung, *extras = arm.split("+")
    return [*ARMS[rung], *extras]


def split(
    pool: Sequence[Case], names: tuple[str, ...], labels: int, validation: tuple[int, int]
) -> TrainingData:
    """The first `labels` cases labelled, those of the range held out, those between without their labels.

    What comes after the range is for others to be scored on, and not used at all.
    """
    start, stop = validation
    unlabelled = [replace(case, target=None) for case in pool[labels:start]]
    return TrainingData(names, pool[:labels], unlabelled, pool[start:stop])


def public(arguments: Sequence[str]) -> list[str]:
    """A command without this machine's folders, be they arguments or the value of `name=folder`."""
    return [re.sub(r"^([\w-]+=)?/\S*/", r"\1", a) for a in arguments]


def train(
    data: TrainingData,
    settings: config.RunConfig,
    folder: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    saved: Callable[[], None] = lambda: None,
) -> bool:
    """Train a run, or go on with it, until its end or until `stop()`; whether it has reached its end.

    `saved()` is called after each checkpoint; where the run stops there is one too.
    """
    run = iter(Trainer(data, settings, folder))
    reason = None
    for event in run:
        if isinstance(event, events.Checkpointed):
            saved()
        elif isinstance(event, events.Ended):
            reason = event.reason
        elif isinstance(event, events.Stepped) and stop():
            run.close()  # type: ignore[attr-defined]
            saved()
            return False
    return reason == "finished"


def trained_learner(settings: config.RunConfig, names: Sequence[str], folder: Path) -> Learner:
    """The learner of a run's last checkpoint, on the device of its configuration."""
    from napari_crln.engine.device import choose_device

    snapshot, _ = checkpoint.latest(folder / events.CHECKPOINTS)
    if snapshot is None:
        raise FileNotFoundError(f"{folder} has no checkpoint")
    learner = build_learner(settings, len(names), choose_device(settings.engine.device))
    load_learner(learner, snapshot)
    return learner


def predict(learner: Learner, settings: config.RunConfig, case: Case, clues: bool | None) -> NDArray[Any]:
    """Class indices of a case by the teacher, as `napari-crln predict` has them."""
    network = InferNetwork(learner, settings, clues)
    device = next(learner.parameters()).device
    apply = case.normalisation.apply
    return predict_labels(network, case.image, Windowing.of(settings), normalise=apply, device=device)


def predict_ways(learner: Learner, settings: config.RunConfig, case: Case) -> dict[bool, NDArray[Any]]:
    """Class indices with clues (True) and from z alone (False), by one pass over the windows; with the one way that there is."""
    if not settings.method.uses_clues:
        return {True: predict(learner, settings, case, None)}

    def values(windows_b1dhw: torch.Tensor) -> torch.Tensor:
        learner.teacher.eval()
        with autocast(windows_b1dhw.device, settings.engine.precision):
            output = learner.teacher(windows_b1dhw)
            clues = learner.teacher.clues(output).map_BCDHW
        z = output.logits_BCDHW.float()
        return torch.cat([fuse(z, clues.float(), learner.trust.mu).softmax(1), z.softmax(1)], 1)

    device = next(learner.parameters()).device
    windowing, apply = Windowing.of(settings), case.normalisation.apply
    slabs = blend_slabs(values, case.image, windowing, normalise=apply, device=device)
    parts = [np.split(slab.probability_CDHW, 2) for slab in slabs]
    return {
        clues: np.concatenate([most_probable(part[way]) for part in parts])
        for way, clues in enumerate((True, False))
    }


def score(
    cases: Iterable[Case], predictions: Callable[[Case], NDArray[Any]], names: Sequence[str]
) -> dict[str, Any]:
    """Mean scores over cases with a target, and over their classes."""
    scored = (
        evaluate.Case(
            c.name, predictions(c), None if c.target is None else np.asarray(c.target[:]), c.spacing
        )
        for c in cases
    )
    return dict(json.loads(evaluate.evaluate(scored, names).model_dump_json(exclude={"cases"})))


def score_ways(learner: Learner, settings: config.RunConfig, data: TrainingData) -> dict[str, Any]:
    """`validation`, and `validation_without_clues` where the method has clues."""
    predicted = {case.name: predict_ways(learner, settings, case) for case in data.validation}
    kinds = {"validation": True, "validation_without_clues": False}
    return {
        kind: score(data.validation, lambda case, c=clues: predicted[case.name][c], data.class_names)  # type: ignore[misc]
        for kind, clues in kinds.items()
        if clues or settings.method.uses_clues
    }


def history(folder: Path) -> dict[str, Any]:
    """What a run's events say of it: seconds of training, the median rate, the last losses and measures."""
    stepped = [e for e in map(_parsed, _lines(folder / events.EVENTS_FILE)) if isinstance(e, events.Stepped)]
    if not stepped:
        return {}
    return {
        "train_seconds": round(sum(e.interval / e.rate for e in stepped), 1),
        "iterations_per_s": statistics.median(e.rate for e in stepped),
        "data_wait": statistics.median(e.data_wait for e in stepped),
        "last": stepped[-1].model_dump(include={"losses", "measures"}),
    }


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median and range over the results of one arm's seeds, for each kind of validation."""
    summary: dict[str, Any] = {"seeds": [r["seed"] for r in results]}
    for kind in ("validation", "validation_without_clues"):
        for metric in METRICS:
            found = [r[kind]["overall"]["statistics"].get(metric) for r in results if r.get(kind)]
            values = [
                statistic["mean"] for statistic in found if statistic
            ]  # none where nothing was predicted
            if values:
                summary.setdefault(kind, {})[metric] = {
                    "median": statistics.median(values),
                    "range": [min(values), max(values)],
                    "by_seed": values,
                    # Distances are means over the cases where something was predicted: here is how many were not.
                    "cases_left_out": [_left_out(r[kind]["overall"], metric) for r in results if r.get(kind)],
                }
    by_seed = summary.get("validation", {}).get("dice", {}).get("by_seed", [])
    if len(by_seed) == len(results) > 0:
        middle = sorted(by_seed)[len(by_seed) // 2]
        summary["median_seed"] = summary["seeds"][by_seed.index(middle)]
    return summary


def _left_out(overall: dict[str, Any], metric: str) -> int:
    found = overall["statistics"]
    return int(found["dice"]["count"]) - int((found.get(metric) or {"count": 0})["count"])


def _lines(path: Path) -> list[str]:
    """Whole lines: a killed run may have left half of one."""
    return path.read_text("utf-8").splitlines() if path.exists() else []


def _parsed(line: str) -> events.Event | None:
    try:
        return events.parse_event(line.encode())
    except ValueError:
        return None
