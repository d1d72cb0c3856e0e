"""Per-case plot of an evaluation: which cases fail, at which class, and whether by overlap or by distance.

Cases are rows, worst mean Dice on top; a dot a class; a dashed line at each class's median. A class that was missed
altogether has no distance: a cross at the panel's right edge says so. Nor has a case whose truth is sparse: the heading counts them. Drawn without pyplot, so that no
window system, global figure list or thread is involved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_crln.engine.evaluate import CaseScores, Evaluation, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_ROW_INCHES = 0.2
_MOST_INCHES = 30.0
_MOST_NAMES = 120  # more do not fit legibly: every n-th is written


def plot_cases(
    evaluation: Evaluation, path: Path, *, colours: Mapping[str, str] | None = None, title: str = ""
) -> None:
    """Write Dice and 95HD (mm) of every case that has a truth as a PNG.

    Parameters
    ----------
    evaluation : what to draw; cases without a truth are left out, and counted in the heading
    path : PNG file; its folder exists
    colours : `#rrggbb` by class name
    title : heading, above the number of cases
    """
    cases = sorted((case for case in evaluation.cases if case.has_truth), key=_dice, reverse=True)
    names = list(evaluation.per_class)
    palette = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)} | dict(colours or {})
    figure, (left, right) = _page(len(cases))
    panels: list[tuple[Axes, Metric]] = [(left, "dice"), (right, "hd95_mm")]
    for index, name in enumerate(names):
        for axes, metric in panels:
            _draw_class(axes, cases, name, metric, colour=palette[name], nudge=_nudge(index, len(names)))
            _draw_median(axes, evaluation, name, metric, colour=palette[name], phase=index)
    _mark_missed(right, cases, palette)
    _label(left, right, cases, names, palette)
    figure.suptitle(_heading(evaluation, len(cases), title), fontsize=11, x=0.01, ha="left")
    figure.savefig(path, format="png", dpi=120)


def _dice(case: CaseScores) -> float:
    mean = case.mean("dice")
    return 2.0 if mean is None else mean  # nothing to score: below the best


def _page(rows: int) -> tuple[Figure, tuple[Axes, Axes]]:
    from matplotlib.figure import Figure

    height = min(_MOST_INCHES, 1.7 + _ROW_INCHES * max(rows, 3))
    figure = Figure(figsize=(10, height), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    return figure, (left, right)


def _nudge(index: int, classes: int) -> float:
    """Offset of a class's dots within their row, so that equal scores do not hide each other."""
    return 0.0 if classes < 2 else 0.36 * (0.5 - index / (classes - 1))


def _draw_class(
    axes: Axes, cases: Sequence[CaseScores], name: str, metric: Metric, *, colour: str, nudge: float
) -> None:
    found = [(getattr(case.classes[name], metric), row + nudge) for row, case in enumerate(cases)]
    points = [(value, row) for value, row in found if value is not None]
    if points:
        values, rows = zip(*points, strict=True)
        axes.scatter(values, rows, s=22, color=colour, alpha=0.85, linewidths=0, zorder=3, clip_on=False)


def _draw_median(
    axes: Axes, evaluation: Evaluation, name: str, metric: Metric, *, colour: str, phase: int
) -> None:
    found = evaluation.per_class[name].statistics.get(metric)
    if found is not None:
        dashes = (5 * phase, (5, 5))  # equal medians show in turns
        axes.axvline(found.median, color=colour, linestyle=dashes, linewidth=1, alpha=0.8, zorder=2)


def _mark_missed(axes: Axes, cases: Sequence[CaseScores], palette: Mapping[str, str]) -> None:
    """Crosses in a margin right of the largest distance."""
    right, place = axes.get_xlim()[1], axes.get_yaxis_transform()
    margin = 0.0
    for row, case in enumerate(cases):
        missed = [n for n, s in case.classes.items() if s.prediction_empty and not s.truth_empty]
        for index, name in enumerate(missed):
            x = 0.985 - 0.025 * index  # of the panel's width, side by side
            axes.scatter([x], [row], marker="x", s=28, color=palette[name], transform=place, zorder=4)
        margin = max(margin, 0.03 * len(missed) + 0.02 if missed else 0.0)
    axes.set_xlim(0, right / (1 - min(margin, 0.5)))


def _label(
    left: Axes, right: Axes, cases: Sequence[CaseScores], names: Sequence[str], palette: Mapping[str, str]
) -> None:
    every = -(-len(cases) // _MOST_NAMES) or 1
    rows = range(len(cases) - 1, -1, -every)  # from the worst
    left.set_yticks(list(rows), [_shortened(cases[row].name) for row in rows], fontsize=7)
    left.set_ylim(-0.7, max(len(cases), 1) - 0.3)
    left.set_xlabel("Dice")
    left.set_xlim(min(0.95, left.get_xlim()[0]), 1.0)
    right.set_xlabel("95 % Hausdorff distance, mm")
    for axes in (left, right):
        axes.grid(axis="both", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", top=True, labeltop=len(cases) > 40, labelsize=8)
    left.figure.legend(
        handles=_legend(names, palette), loc="outside upper right", ncols=6, fontsize=8, frameon=False
    )


def _legend(names: Sequence[str], palette: Mapping[str, str]) -> list[Any]:
    from matplotlib.lines import Line2D

    dots = [
        Line2D([], [], marker="o", linestyle="", markersize=5, color=palette[n], label=_shortened(n))
        for n in names
    ]
    median = Line2D([], [], linestyle="--", linewidth=1, color="0.4", label="median")
    missed = Line2D([], [], marker="x", linestyle="", markersize=5, color="0.4", label="missed: no distance")
    return [*dots, median, missed]


def _heading(evaluation: Evaluation, scored: int, title: str) -> str:
    without, sparse = len(evaluation.without_truth), evaluation.overall.sparse_truths
    count = f"{scored} cases" + (f", {sparse} of them with a sparse truth: no distance" if sparse else "")
    count += f", {without} more without a truth" if without else ""
    return f"{title}\n{count}" if title else count


def _shortened(name: str, longest: int = 32) -> str:
    return name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-longest // 2 :]}"
