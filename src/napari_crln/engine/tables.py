"""An evaluation as plain rows of text, header first: for a terminal, a report or a CSV file."""

from __future__ import annotations

from napari_crln.engine.evaluate import METRICS, CaseScores, Evaluation, Metric, Scores, Statistics, Summary

NOTHING = "–"
_PERCENT: frozenset[Metric] = frozenset({"dice", "jaccard"})
_HEADINGS: dict[Metric, str] = {
    "dice": "Dice %",
    "jaccard": "Jaccard %",
    "hd95": "95HD vx",
    "asd": "ASD vx",
    "assd": "ASSD vx",
    "hd95_mm": "95HD mm",
    "asd_mm": "ASD mm",
    "assd_mm": "ASSD mm",
}

Rows = list[list[str]]


def case_rows(evaluation: Evaluation) -> Rows:
    """A row for each case and class, with volumes; `–` where there is no score, as no distance where coverage is sparse."""
    header = ["case", "class", *_HEADINGS.values(), "predicted ml", "truth ml", "coverage"]
    return [
        header,
        *(_case_row(case, name, s) for case in evaluation.cases for name, s in case.classes.items()),
    ]


def long_rows(evaluation: Evaluation) -> Rows:
    """A row for each class and metric, and overall: for a terminal's width."""
    summaries = {**evaluation.per_class, "all": evaluation.overall}
    rows = [
        [name if metric == METRICS[0] else "", _HEADINGS[metric], *_long_cells(summary, metric)]
        for name, summary in summaries.items()
        for metric in METRICS
    ]
    return [["class", "metric", "median", "min–max", "mean ± SD", "cases", "empty predictions"], *rows]


def _long_cells(summary: Summary, metric: Metric) -> list[str]:
    found = summary.statistics.get(metric)
    empties = str(summary.empty_predictions)
    if found is None:
        return [NOTHING, NOTHING, NOTHING, "0", empties]
    median, low, high, mean, deviation = _numbers(found, metric)
    return [median, f"{low}–{high}", f"{mean} ± {deviation}", str(found.count), empties]


def _case_row(case: CaseScores, name: str, scores: Scores) -> list[str]:
    cells = [_number(getattr(scores, metric), metric) for metric in METRICS]
    truth = NOTHING if scores.truth_ml is None else f"{scores.truth_ml:.2f}"
    return [case.name, name, *cells, f"{scores.prediction_ml:.2f}", truth, _coverage(case)]


def _coverage(case: CaseScores) -> str:
    if not case.has_truth:
        return NOTHING
    return "sparse" if case.sparse_truth else "dense"


def _numbers(found: Statistics, metric: Metric) -> list[str]:
    values = (found.median, found.minimum, found.maximum, found.mean, found.deviation)
    return [_number(value, metric) for value in values]


def _number(value: float | None, metric: Metric) -> str:
    if value is None:
        return NOTHING
    return f"{value * 100:.1f}" if metric in _PERCENT else f"{value:.2f}"
