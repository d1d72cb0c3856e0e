"""Cost of a training step, by method, as ratios within one run.

    python benchmarks/step.py --patch 64 64 64 --filters 16 --rounds 5 --out benchmarks/results/step-cpu.json

Methods take turns, one step each, round after round, so that what else the machine does falls on all alike.
Reported are medians of CPU and wall seconds a step and their ratios to mean teacher.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from record import record

from napari_crln import config
from napari_crln.engine.state import TrainingState
from napari_crln.engine.update import descend
from napari_crln.method.baselines import STEPS
from napari_crln.method.learner import Batch, Randomness

METHODS = ("supervised", "mean-teacher", "crln")


def main() -> None:
    options = _parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    states = {name: _state(options, name) for name in METHODS}
    batch = _batch(options)
    for name in METHODS:
        _step(states[name], name, batch, 0)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in METHODS}
    for round_ in range(1, options.rounds + 1):
        for name in METHODS:
            times[name].append(_timed(states[name], name, batch, round_))
            print(f"round {round_} {name}: {times[name][-1][0]:.3f} s", flush=True)
    results = {name: _medians(times[name]) for name in METHODS}
    reference = results["mean-teacher"]
    for name in METHODS:
        results[name]["wall_ratio"] = results[name]["wall_s"] / reference["wall_s"]
        results[name]["cpu_ratio"] = results[name]["cpu_s"] / reference["cpu_s"]
        print(
            f"{name:14s} {results[name]['wall_s']:.3f} s = {results[name]['wall_ratio']:.3f} × mean-teacher"
        )
    if options.out:
        settings = {k: v for k, v in vars(options).items() if k != "out"} | {
            "threads": torch.get_num_threads()
        }
        record(options.out, ["python", *sys.argv], {"settings": settings, "methods": results}, [0])


def _settings(options: argparse.Namespace, name: str) -> config.RunConfig:
    return config.build(
        {
            "network": {"base_filters": options.filters},
            "batches": {"patch": options.patch},
            "method": {"name": name, "rectification": {"after": 0}},
        }
    )


def _state(options: argparse.Namespace, name: str) -> TrainingState:
    names = tuple(f"class {k}" for k in range(options.classes))
    return TrainingState.initial(_settings(options, name), names, torch.device("cpu"))


def _batch(options: argparse.Namespace) -> Batch:
    torch.manual_seed(0)
    shape = (2, *options.patch)
    target = torch.zeros(shape, dtype=torch.int16)
    for k in range(1, options.classes):  # boxes, so that every class has voxels
        target[:, 8 * k : 8 * k + 8, 8:-8, 8:-8] = k
    return Batch(
        torch.rand(2, 1, *options.patch), target, torch.rand(2, 1, *options.patch), torch.ones(shape) > 0
    )


def _timed(state: TrainingState, name: str, batch: Batch, step: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    _step(state, name, batch, step)
    return time.perf_counter() - wall, time.process_time() - cpu


def _step(state: TrainingState, name: str, batch: Batch, step: int) -> None:
    result = STEPS[name](state.learner, batch, step, Randomness(0, step))  # type: ignore[index]
    descend(state.optimiser, result.loss, 1e-3, None)
    state.learner.after_step(result, step)


def _medians(times: list[tuple[float, float]]) -> dict[str, Any]:
    wall, cpu = zip(*times, strict=True)
    return {"wall_s": statistics.median(wall), "cpu_s": statistics.median(cpu), "rounds": len(times)}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, default=(64, 64, 64))
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
