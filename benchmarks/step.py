"""Cost of a training step: of each method, and of each switch of the engine, as ratios within one run.

    python benchmarks/step.py --patch 64 64 64 --filters 16 --rounds 5 --out benchmarks/results/step-cpu.json
    python benchmarks/step.py --device cuda --patch 80 112 112 --rounds 30 --variants all

Variants take turns, one step each, round after round, so that what else the machine does falls on all alike. A
step is what the loop does: patches, views, losses, backward, optimiser, EMA, μ. Reported of each variant:

wall_s, cpu_s          median seconds a step; `wall_ratio`, `cpu_ratio` to mean teacher
iterations_per_s, patches_per_s
data_wait              share of the step spent on getting patches
memory_mb              device memory at most (CUDA), or the process's at most, all variants together
flops, matmul_fraction arithmetic of a step (torch's counter), and its rate over that of one large matrix product in the
                       precision of the variant, measured in the same run

Methods: the plain engine's. Rungs of the ladder: `rectified`, crln without CPS. Variants `crln …`: one switch of `[engine]` set to what it is not by default;
`crln eager fp32` is the plain way in everything: the engine's gain is to be seen against it.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import record
from torch.utils.flop_counter import FlopCounterMode

from napari_crln import config
from napari_crln.engine.cohort import Case
from napari_crln.engine.data import Batches, TrainingData
from napari_crln.engine.device import autocast, choose_device, synchronise
from napari_crln.engine.guard import StepGuard, diverged
from napari_crln.engine.memory import peak_memory_mb
from napari_crln.engine.meter import Meter
from napari_crln.engine.speed import Speed
from napari_crln.engine.state import TrainingState
from napari_crln.engine.update import descend
from napari_crln.method.baselines import STEPS
from napari_crln.method.learner import Randomness
from napari_crln.volume.intensity import measure

METHODS = ("supervised", "mean-teacher", "crln")
PEERS = ("ua-mt", "cutmix", "bcp")
RUNGS: dict[str, dict[str, dict[str, bool]]] = {"rectified": {"cps": {"enabled": False}}}
SWITCHES: dict[str, dict[str, str]] = {
    "crln bf16": {"precision": "bf16"},
    "crln fp32": {"precision": "fp32"},
    "crln contiguous": {"channels_last": "off"},
    "crln unfused": {"fused": "off"},
    "crln compiled": {"compile": "on"},
    "crln untuned": {"autotune": "off"},
    "crln eager fp32": {"precision": "fp32", "channels_last": "off", "fused": "off", "autotune": "off"},
    "crln streamed": {"cohort": "streamed"},
}
#: The margin around the patch of the volumes that patches are cut from.
MARGIN = 24


def main() -> None:
    options = _parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        data = {how: _data(options, how, Path(folder)) for how in _ways(options.variants)}
        variants = {name: Variant(options, name, device, data) for name in options.variants}
        for variant in variants.values():
            variant.count()
        for round_ in range(options.warmup + options.rounds):
            for variant in variants.values():
                variant.step(timed=round_ >= options.warmup)
            print(f"round {round_}: " + ", ".join(f"{n} {v.last_s:.3f} s" for n, v in variants.items()))
    rates = {p: matmul_rate(device, p) for p in ("fp32", "bf16")}
    results = {name: variant.summary(rates) for name, variant in variants.items()}
    _compare(results)
    if options.out:
        settings = {k: v for k, v in vars(options).items() if k != "out"}
        settings |= {"threads": torch.get_num_threads(), "device": device.type}
        measured = {"settings": settings, "matmul_tflops": {p: r / 1e12 for p, r in rates.items()}}
        record(options.out, ["python", *sys.argv], measured | {"methods": results}, [0])


class Variant:
    """One method with one set of switches, and what its steps took."""

    def __init__(
        self, options: argparse.Namespace, name: str, device: torch.device, data: dict[str, TrainingData]
    ) -> None:
        self.settings = _settings(options, name)
        self.device, self.patches = device, 0
        self.speed = Speed.of(self.settings, device)
        of_run = data[self.settings.engine.cohort]
        self.state = TrainingState.initial(self.settings, of_run.class_names, device)
        self.batches = Batches(of_run, self.settings, device)
        self.meter = Meter(device)
        self.guard = StepGuard(
            self.state.learner.watched(), device.type != "cpu", partial(diverged, 1e-4, name)
        )
        self.wall_s: list[float] = []
        self.cpu_s: list[float] = []
        self.wait_s: list[float] = []
        self.last_s = 0.0
        self.flops = 0

    def step(self, timed: bool) -> None:
        """One step, timed from a device at rest to a device at rest."""
        synchronise(self.device)
        wall, cpu = time.perf_counter(), time.process_time()
        random = Randomness(0, self.state.step)
        batch = self.batches.at(random)
        waited = time.perf_counter() - wall
        torch.backends.cudnn.benchmark = self.speed.autotuned
        with self.guard.undoing():
            with autocast(self.device, self.settings.engine.precision):
                result = STEPS[self.settings.method.name](self.state.learner, batch, self.state.step, random)
            norm = descend(self.state.optimiser, result.loss, 1e-4, None)
            taken = self.guard.judge(norm, {"total": result.loss, **result.terms}, self.state.step)
        self.state.learner.after_step(result, self.state.step, self.speed.fused, taken)
        self.meter.add(result, norm, time.perf_counter() - wall, waited)
        self.state.step += 1
        synchronise(self.device)
        self.last_s = time.perf_counter() - wall
        self.patches = len(batch.x_l) + len(batch.x_u)
        if timed:
            self.wall_s.append(self.last_s)
            self.cpu_s.append(time.process_time() - cpu)
            self.wait_s.append(waited)

    def count(self) -> None:
        """Count the operations of a step, by torch's counter, which sees nothing of compiled code."""
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
            self.step(timed=False)
        self.flops = int(counter.get_total_flops())

    def summary(self, rates: dict[str, float]) -> dict[str, Any]:
        wall = statistics.median(self.wall_s)
        bf16 = autocast(self.device, self.settings.engine.precision)._enabled
        return {
            "wall_s": wall,
            "cpu_s": statistics.median(self.cpu_s),
            "rounds": len(self.wall_s),
            "iterations_per_s": 1 / wall,
            "patches_per_s": self.patches / wall,
            "data_wait": sum(self.wait_s) / sum(self.wall_s),
            "memory_mb": peak_memory_mb(self.device),
            "flops": self.flops,
            "matmul_fraction": self.flops / wall / rates["bf16" if bf16 else "fp32"],
        }


def matmul_rate(device: torch.device, precision: str) -> float:
    """Floating-point operations a second of a square matrix product, the best of several."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else None)
    best = float("inf")
    for _ in range(8 if device.type == "cuda" else 3):
        synchronise(device)
        start = time.perf_counter()
        a @ b
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _compare(results: dict[str, Any]) -> None:
    reference = results.get("mean-teacher")
    for name, result in results.items():
        if reference is not None:
            result["wall_ratio"] = result["wall_s"] / reference["wall_s"]
            result["cpu_ratio"] = result["cpu_s"] / reference["cpu_s"]
        print(
            f"{name:16s} {result['wall_s']:8.3f} s  {result['iterations_per_s']:7.2f} it/s"
            f"  {result['patches_per_s']:7.2f} patches/s  waits {100 * result['data_wait']:4.1f} %"
            f"  {result['memory_mb']:7.0f} MB  {100 * result['matmul_fraction']:4.1f} % of matmul"
            f"  {result.get('wall_ratio', float('nan')):.3f} × mean-teacher"
        )


def _settings(options: argparse.Namespace, name: str) -> config.RunConfig:
    return config.build(
        {
            "network": {"base_filters": options.filters},
            "batches": {"patch": options.patch},
            "method": {
                "name": "crln" if name in RUNGS else name.split(maxsplit=1)[0],
                "rectification": {"after": 0},
                "bcp": {"pretrain": 0},
                **RUNGS.get(name, {}),
            },
            "engine": {"cohort": "resident"} | SWITCHES.get(name, {}),
        }
    )


def _ways(variants: list[str]) -> set[str]:
    return {SWITCHES.get(name, {}).get("cohort", "resident") for name in variants}


def _data(options: argparse.Namespace, how: str, folder: Path) -> TrainingData:
    """Four volumes with boxes for organs; streamed ones are a project's, on disk."""
    shape = tuple(size + MARGIN for size in options.patch)
    cases = [_case(k, shape, options.classes) for k in range(4)]
    names = tuple(f"class {k}" for k in range(options.classes))
    if how == "streamed":
        return _stored(cases, names, folder)
    unlabelled = [dataclasses.replace(c, target=None) for c in cases[2:]]
    return TrainingData(names, cases[:2], unlabelled)


def _case(number: int, shape: tuple[int, ...], classes: int) -> Case:
    rng = np.random.default_rng(number)
    target = np.zeros(shape, np.int16)
    for k in range(1, classes):
        target[8 * k : 8 * k + 16, 8:-8, 8:-8] = k
    image = (rng.normal(60, 15, shape) + 40 * target).clip(0, 255).astype(np.uint8)
    return Case(f"v{number}", image, measure(image, "zscore"), target)


def _stored(cases: list[Case], names: tuple[str, ...], folder: Path) -> TrainingData:
    from napari_crln.volume.geometry import Grid
    from napari_crln.volume.labels import ClassTable
    from napari_crln.volume.project import Project

    project = Project.create(folder / "p.crln", ClassTable.from_ids({n: k for k, n in enumerate(names)}))
    for number, case in enumerate(cases):
        grid, label = Grid(case.image.shape, np.eye(4)), np.asarray(case.target[:] + 1, np.uint8)
        role = "labelled" if number < 2 else "unlabelled"
        project.add(case.name, case.image, grid, role, label if number < 2 else None)
    return TrainingData.of(project, config.Engine(cohort="streamed"))


def _variants(text: str) -> list[str]:
    known = [*METHODS, *PEERS, *RUNGS, *SWITCHES]
    chosen = {"all": known, "switches": [*METHODS, *SWITCHES]}.get(text) or text.split(",")
    if unknown := set(chosen) - set(known):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    if "crln streamed" in chosen and not all(map(find_spec, ("zarr", "tensorstore", "tomlkit"))):
        print("crln streamed is left out: it needs zarr, tensorstore and tomlkit", file=sys.stderr)
        chosen = [name for name in chosen if name != "crln streamed"]
    return chosen


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patch", type=int, nargs=3, default=(64, 64, 64))
    parser.add_argument("--filters", type=int, default=16)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument(
        "--variants",
        type=_variants,
        default=list(METHODS),
        help="comma-separated; `switches`: the methods and every switch; `all`: peers and rungs too",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
