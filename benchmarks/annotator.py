"""A simulated annotator: paint the true label of a slice, train on, ask which slice to paint next.

    python benchmarks/annotator.py hip.crln --labels ../shared/data/hippocampus/labelsTr --preset hippocampus \
        --seeds 0,1,2 --jobs 2 --out benchmarks/results/annotator-hippocampus

Each (arm, seed) starts with the same few slices, trains, is scored on held-out volumes by its last weights, gets some slices
more, and goes on from its weights. Arms differ in who chooses the slices, and in the method:

    crln+suggestions        crln; the slices that `napari-crln suggest` would put first
    crln+random             crln; slices at random
    supervised+random       the labelled slices alone; slices at random
    supervised+suggestions  the same, ranked without clues by uncertainty and novelty
    crln+random-begun       crln; slices at random of volumes that are begun, as suggestions have it: the control
    full                    supervised with every slice of the pool labelled, for as many iterations: the mark

The pool are the first `--pool` volumes that may be trained on, of which the annotator knows the truth: the project's
own label, or the file of the same name in `--labels`. Scores are on the first `--held-out` volumes of role validation. The learning rate is constant,
so that an early round is not trained otherwise than a late one. A round is committed to `--work` in one step when it
is done; a call that is killed, or ends by `--minutes`, is gone on with by the next one of the same command.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from annotator_rounds import ARMS, Plan, committed, run_rounds
from record import record


def main() -> None:
    options = _parse()
    deadline = time.time() + 60 * options.minutes if options.minutes else float("inf")
    if options.one:
        arm, seed = options.one.rsplit(":", 1)
        run_rounds(_plan(options), arm, int(seed), options.until or deadline)
        return
    jobs = [(arm, seed) for seed in options.seeds for arm in options.arms]
    run_queue(options, jobs, deadline)
    summary = summarise(options)
    record(options.out / "summary.json", ["python", *_public(sys.argv)], summary, options.seeds)
    draw(options.out / "curve.png", summary)
    for arm, found in summary["arms"].items():
        print(f"{arm:24s} {found['slices_for_90_percent']!s:>5} slices for 90 % of {summary['full_dice']}")


def run_queue(options: argparse.Namespace, jobs: list[tuple[str, int]], deadline: float) -> None:
    """Run jobs as processes of their own, `--jobs` at a time; none is begun after the deadline."""
    running: list[subprocess.Popen[bytes]] = []
    for arm, seed in jobs:
        while len(running) >= options.jobs:
            time.sleep(1)
            running = [p for p in running if p.poll() is None]
        if time.time() < deadline:
            print(f"start {arm} seed {seed}", flush=True)
            extra = ["--one", f"{arm}:{seed}", *(["--until", str(deadline)] if options.minutes else [])]
            running.append(subprocess.Popen([sys.executable, *sys.argv, *extra]))
    for process in running:
        process.wait()


def summarise(options: argparse.Namespace) -> dict[str, Any]:
    """Curves of each arm over the seeds, and the slices that each needs for 90 % of the full-label Dice."""
    plan = _plan(options)
    curves = {
        arm: {seed: committed(plan, arm, seed) for seed in options.seeds} for arm in options.arms
    }  # fmt: skip
    full = [rounds[-1]["dice"] for rounds in curves.get("full", {}).values() if rounds]
    full_dice = sum(full) / len(full) if full else None
    arms = {arm: _curve(by_seed, full_dice) for arm, by_seed in curves.items() if arm != "full"}
    return {
        "plan": plan.described(),
        "full_dice": None if full_dice is None else round(full_dice, 4),
        "full_dice_by_seed": full,
        "arms": arms,
        "gain_of_suggestions": _gain(arms),
    }


def _curve(by_seed: dict[int, list[dict[str, Any]]], full_dice: float | None) -> dict[str, Any]:
    """Means over the seeds that have come as far."""
    depth = min((len(rounds) for rounds in by_seed.values()), default=0)
    dice = [[rounds[r]["dice"] for rounds in by_seed.values()] for r in range(depth)]
    slices = [next(iter(by_seed.values()))[r]["slices"] for r in range(depth)]
    mean = [sum(values) / len(values) for values in dice]
    return {
        "slices": slices,
        "dice_mean": mean,
        "dice_range": [[min(values), max(values)] for values in dice],
        "dice_by_seed": {str(seed): [r["dice"] for r in rounds] for seed, rounds in by_seed.items()},
        "seconds_by_seed": {
            str(seed): round(sum(r["seconds"] for r in rounds)) for seed, rounds in by_seed.items()
        },
        "slices_for_90_percent": None if full_dice is None else reached(slices, mean, 0.9 * full_dice),
    }


def reached(slices: list[int], dice: list[float], mark: float) -> float | None:
    """Annotated slices at which the curve first reaches the mark, between rounds by a line; None if it does not."""
    for index, value in enumerate(dice):
        if value >= mark:
            if index == 0:
                return float(slices[0])
            low = dice[index - 1]
            part = (mark - low) / (value - low)
            return round(slices[index - 1] + part * (slices[index] - slices[index - 1]), 1)
    return None


def _gain(arms: dict[str, Any]) -> list[float] | None:
    """Dice of crln with suggestions over crln with random slices, round by round, paired by seed."""
    pair = [arms.get(name, {}).get("dice_mean", []) for name in ("crln+suggestions", "crln+random")]
    return [round(a - b, 4) for a, b in zip(*pair, strict=False)] or None


def draw(path: Path, summary: dict[str, Any]) -> None:
    """Dice against annotated slices, mean and range over the seeds."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for arm, curve in summary["arms"].items():
        if curve["slices"]:
            (line,) = axes.plot(curve["slices"], [100 * v for v in curve["dice_mean"]], "o-", label=arm)
            low, high = zip(*curve["dice_range"], strict=True)
            axes.fill_between(
                curve["slices"], [100 * v for v in low], [100 * v for v in high],
                color=line.get_color(), alpha=0.15, linewidth=0,
            )  # fmt: skip
    if summary["full_dice"]:
        axes.axhline(100 * summary["full_dice"], color="black", linewidth=1, label="every slice labelled")
        axes.axhline(90 * summary["full_dice"], color="black", linewidth=1, linestyle=":", label="90 % of it")
    axes.set(xlabel="annotated slices", ylabel="Dice on held-out volumes, %")
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _plan(options: argparse.Namespace) -> Plan:
    names = (
        "project", "labels", "preset", "set", "work", "pool", "held_out", "start", "add", "rounds",
        "first_iterations", "iterations", "axis", "half",
    )  # fmt: skip
    return Plan(**{name: getattr(options, name) for name in names})


def _public(arguments: list[str]) -> list[str]:
    """The command without this machine's folders."""
    return [Path(a).name if a.startswith("/") else a for a in arguments]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--labels", type=Path, help="folder with the truth of unlabelled volumes")
    parser.add_argument("--preset", required=True)
    parser.add_argument("--set", action="append", default=[], help="override of every arm")
    parser.add_argument("--arms", type=lambda t: t.split(","), default=list(ARMS))
    parser.add_argument("--seeds", type=lambda t: [int(s) for s in t.split(",")], default=[0, 1, 2])
    parser.add_argument("--pool", type=int, default=40, help="volumes that slices are taken from")
    parser.add_argument("--held-out", type=int, default=16, help="volumes that are scored")
    parser.add_argument("--start", type=int, default=4, help="slices annotated at first")
    parser.add_argument("--add", type=int, default=4, help="slices a round")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--first-iterations", type=int, default=120, help="of the first round")
    parser.add_argument("--iterations", type=int, default=60, help="of every later round")
    parser.add_argument("--axis", type=int, choices=(0, 1, 2), default=0)
    parser.add_argument("--half", action="store_true", help="half the resolution")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work/annotator"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="begin no round after so many")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
