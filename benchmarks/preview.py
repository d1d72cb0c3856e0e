"""What previews cost: iterations a second with and without them, in alternating pairs.

    python benchmarks/preview.py --preset demo --iterations 300 --pairs 3 --out benchmarks/results/preview-cpu.json

Each run trains on the same phantoms from the same seed, so that runs with and without previews do the very
same steps; which of a pair goes first alternates. Timed is what lies between two `stepped` events, the first
at `--warmup` and the last: previews, their writing and the loop's own work included, start and end left out.
The advance that the budget gives at the start is spent within the warm-up and repaid after it, so make the timed
part long: the advance is 2 s, earned by 40 s of training at 5 %.

`cost_share` is of iterations/s, by the wall clock, and `cpu_cost_share` of the CPU time that an iteration takes. Where others
work on the machine, too, both say more of them than of previews; `spent_share` does not: the time in the run with previews
that was spent on them (and on suggestions, which share their budget), within the same minute and of the same total.

With `--pair N` (from 0) only that pair is measured and added to those in `--out`: calls of limited time, on a machine
that is idle only for some minutes at a stretch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from record import record

from napari_crln import config
from napari_crln.engine.budget import Budget
from napari_crln.engine.cohort import Case
from napari_crln.engine.data import TrainingData
from napari_crln.engine.loop import Trainer
from napari_crln.engine.meter import now
from napari_crln.events import Previewed, Stepped
from napari_crln.volume.intensity import measure
from napari_crln.volume.phantom import CLASSES, SPACING, phantom_cohort

LABELLED = 3


def main() -> None:
    options = _parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    data = _data(options)
    numbers = range(options.pairs) if options.pair is None else [options.pair]
    pairs = _earlier(options) + [_pair(options, data, number) for number in numbers]
    results = {
        "settings": {k: v for k, v in vars(options).items() if k not in ("out", "pair")}
        | {"threads": torch.get_num_threads()},
        "pairs": pairs,
        "cost_share_median": statistics.median(pair["cost_share"] for pair in pairs),
        "cpu_cost_share_median": statistics.median(pair["cpu_cost_share"] for pair in pairs),
        "spent_share_median": statistics.median(pair["spent_share"] for pair in pairs),
        "load": os.getloadavg()[0],
    }
    print(
        f"previews cost {results['cost_share_median']:.1%} of iterations/s, {results['spent_share_median']:.1%} of time"
    )
    if options.out:
        record(options.out, ["python", *sys.argv], results, [options.seed])


def _earlier(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The pairs before `--pair` that are in the file; taken with the same settings by whoever calls."""
    if options.pair is None or not options.out or not options.out.exists():
        return []
    pairs: list[dict[str, Any]] = json.loads(options.out.read_text("utf-8"))["results"]["pairs"]
    return pairs[: options.pair]


def _pair(options: argparse.Namespace, data: TrainingData, number: int) -> dict[str, Any]:
    """One run with and one without previews; the second pair in the other order, and so on."""
    shares = (0.0, options.share) if number % 2 == 0 else (options.share, 0.0)
    timed = {share: _run(options, data, share) for share in shares}
    without, with_ = timed[0.0], timed[options.share]
    cost = 1 - with_["iterations_per_s"] / without["iterations_per_s"]
    cpu_cost = 1 - without["cpu_s_per_iteration"] / with_["cpu_s_per_iteration"]
    print(
        f"pair {number}: {without} without, {with_} with: {cost:.1%}, by CPU time {cpu_cost:.1%}", flush=True
    )
    return {
        "order": list(shares),
        "without": without,
        "with": with_,
        "cost_share": cost,
        "cpu_cost_share": cpu_cost,
        "spent_share": with_["spent_s"] / with_["timed_s"],
    }


def _run(options: argparse.Namespace, data: TrainingData, share: float) -> dict[str, float]:
    settings = config.build(
        config.load_preset(options.preset),
        *map(config.assignment, options.set),
        {
            "iterations": options.iterations,
            "seed": options.seed,
            "engine": {
                "preview_share": share,
                "log_every": options.warmup,
                "validate_every": 0,
                "checkpoint_every": options.iterations + 1,
            },
        },
    )
    marks: list[tuple[int, float, float]] = []
    generations = 0
    spent: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Budget, "spend", _noting(spent)):
        for event in Trainer(data, settings, Path(folder)):
            if isinstance(event, Stepped):
                marks.append((event.step, now(), time.process_time()))
            generations += isinstance(event, Previewed)
    (first, began, cpu_began), (last, ended, cpu_ended) = marks[0], marks[-1]
    return {
        "iterations_per_s": (last - first) / (ended - began),
        "timed_s": ended - began,
        "spent_s": sum(seconds for at, seconds in spent if began <= at <= ended),
        "cpu_s_per_iteration": (cpu_ended - cpu_began) / (last - first),
        "generations": generations,
    }


def _noting(spent: list[tuple[float, float]]) -> Callable[[Budget, float], None]:
    """A budget's `spend` that also notes when it was called, and the seconds."""
    spend = Budget.spend

    def noting(budget: Budget, seconds: float) -> None:
        spent.append((now(), seconds))
        spend(budget, seconds)

    return noting


def _data(options: argparse.Namespace) -> TrainingData:
    cases = [
        Case(p.name, p.image, measure(p.image, "zscore"), p.labels.astype("int16"), SPACING)
        for p in phantom_cohort(options.volumes, options.seed, tuple(options.shape))
    ]
    unlabelled = [Case(c.name, c.image, c.normalisation, None, c.spacing) for c in cases[LABELLED:]]
    return TrainingData(("background", *CLASSES), cases[:LABELLED], unlabelled)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--share", type=float, default=config.Engine().preview_share)
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 96, 96), help="of the phantoms")
    parser.add_argument("--volumes", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--warmup", type=int, default=10, help="iterations before the clock starts")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--pair", type=int, metavar="N", help="only this one, added to those in --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
