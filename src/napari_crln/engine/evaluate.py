"""Scores of predictions against truths: per case and class, and what they come to together.

Voxels without a truth (IGNORE) are left out of both objects, so the overlap of a sparsely annotated case is scored where
somebody looked. It has no surface distance: what was annotated ends where somebody stopped, not where the object does,
and every voxel of a lone annotated slice would be a border, near which there is always another. An absent class has no
Dice, and an empty object no distance (see `metrics`): the means leave them out, and say how many they left out. The
background is not scored.

The overall score of a case is the mean over its classes that have one; overall statistics are over cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Literal, NamedTuple, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from napari_crln.engine import metrics
from napari_crln.errors import GridMismatch, InvalidLabel, UnreadableFile
from napari_crln.types import IGNORE, LabelDHW, SpacingDHW, TargetDHW

SCHEMA = 2  # 1 did not say which truths are sparse, and gave distances of them
Metric = Literal["dice", "jaccard", "hd95", "asd", "assd", "hd95_mm", "asd_mm", "assd_mm"]
METRICS: tuple[Metric, ...] = get_args(Metric)


class Case(NamedTuple):
    """One volume to score.

    Parameters
    ----------
    name : of the volume
    prediction : class indices (D, H, W)
    truth : class indices (D, H, W), IGNORE where nobody annotated; None where there is no truth at all
    spacing : millimetres a voxel, D, H, W
    """

    name: str
    prediction: LabelDHW
    truth: TargetDHW | None
    spacing: SpacingDHW


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scores(_Model):
    """One class in one case. None: there is nothing to measure, no truth, or a distance to a sparse one."""

    dice: float | None = None
    jaccard: float | None = None
    hd95: float | None = Field(None, description="95 % Hausdorff distance, voxels")
    asd: float | None = Field(None, description="mean surface distance, prediction to truth, voxels")
    assd: float | None = Field(None, description="mean of both directions, voxels")
    hd95_mm: float | None = None
    asd_mm: float | None = None
    assd_mm: float | None = None
    prediction_ml: float = Field(description="predicted volume, over annotated voxels where there is a truth")
    truth_ml: float | None = None

    @property
    def prediction_empty(self) -> bool:
        """Nothing predicted, whatever the truth."""
        return self.prediction_ml == 0

    @property
    def truth_empty(self) -> bool:
        """There is a truth, and the class is absent from it."""
        return self.truth_ml == 0


class CaseScores(_Model):
    """Scores of the foreground classes, by class name."""

    name: str
    has_truth: bool
    sparse_truth: bool = Field(False, description="annotated in part: scored there, and without distances")
    classes: dict[str, Scores]

    def mean(self, metric: Metric) -> float | None:
        """Mean over the classes that have the score; None if none has."""
        values = _present(getattr(scores, metric) for scores in self.classes.values())
        return fmean(values) if values else None


class Statistics(_Model):
    """Of the `count` values that there are; `deviation` is the population's, 0 for one value."""

    count: int
    mean: float
    median: float
    minimum: float
    maximum: float
    deviation: float


class Summary(_Model):
    """A class, or all of them, over the cases that have a truth."""

    statistics: dict[Metric, Statistics] = Field(description="metrics that nobody has a value for are absent")
    cases: int = Field(description="cases with a truth")
    empty_predictions: int = Field(description="class in the truth, and nothing of it predicted: no distance")
    empty_truths: int = Field(description="class absent from the truth")
    sparse_truths: int = Field(0, description="cases annotated in part: no distance")


class Evaluation(_Model):
    """The scores of a set of predictions; JSON by `model_dump_json`, back by `loads`."""

    schema_version: int = SCHEMA
    cases: list[CaseScores]
    per_class: dict[str, Summary]
    overall: Summary

    @property
    def without_truth(self) -> list[str]:
        """Names of the cases that could not be scored."""
        return [case.name for case in self.cases if not case.has_truth]


def evaluate(cases: Iterable[Case], class_names: Sequence[str]) -> Evaluation:
    """Score every foreground class of every case; `class_names[0]` is the background.

    Cases are taken one at a time, so that an iterator need hold only one in memory.

    Raises
    ------
    GridMismatch : prediction and truth differ in shape
    InvalidLabel : a class index beyond the table
    """
    scored = [score_case(case, class_names) for case in cases]
    return Evaluation(
        cases=scored,
        per_class={name: _summary(scored, [name]) for name in class_names[1:]},
        overall=_summary(scored, class_names[1:]),
    )


def score_case(case: Case, class_names: Sequence[str]) -> CaseScores:
    """Score the foreground classes of one case; errors as `evaluate`."""
    _check(case, len(class_names))
    seen = None if case.truth is None else np.asarray(case.truth != IGNORE)
    scores = {name: _score(case, index, seen) for index, name in enumerate(class_names) if index}
    sparse = seen is not None and not seen.all()
    return CaseScores(name=case.name, has_truth=seen is not None, sparse_truth=sparse, classes=scores)


def loads(text: str | bytes, where: str) -> Evaluation:
    """An evaluation from its JSON; `where` names the file in the error.

    Raises
    ------
    UnreadableFile : not an evaluation, or of a later version
    """
    try:
        return Evaluation.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "document"
        raise UnreadableFile(
            f"{at}: {first['msg']}", f"an evaluation is JSON of schema {SCHEMA}", "Evaluate again", where
        ) from error


def _score(case: Case, index: int, seen: metrics.MaskDHW | None) -> Scores:
    """`seen`: where the truth says something; None: there is none."""
    prediction = np.asarray(case.prediction == index)
    if seen is None:
        return Scores(prediction_ml=metrics.volume_ml(prediction, case.spacing))
    truth = np.asarray(case.truth == index)
    prediction &= seen
    return Scores(
        dice=metrics.dice(prediction, truth),
        jaccard=metrics.jaccard(prediction, truth),
        prediction_ml=metrics.volume_ml(prediction, case.spacing),
        truth_ml=metrics.volume_ml(truth, case.spacing),
        **(_distances(prediction, truth, case.spacing) if seen.all() else {}),
    )


def _distances(prediction: metrics.MaskDHW, truth: metrics.MaskDHW, spacing: SpacingDHW) -> dict[str, float]:
    ends = metrics.borders(prediction), metrics.borders(truth)
    if not all(len(points) for points in ends):
        return {}
    voxels = metrics.distances_between(*ends, (1, 1, 1))
    mm = metrics.distances_between(*ends, spacing)
    return {
        **{"hd95": voxels.hd95, "asd": voxels.asd, "assd": voxels.assd},
        **{"hd95_mm": mm.hd95, "asd_mm": mm.asd, "assd_mm": mm.assd},
    }


def _summary(cases: Sequence[CaseScores], names: Sequence[str]) -> Summary:
    chosen = [
        case.model_copy(update={"classes": {name: case.classes[name] for name in names}})
        for case in cases
        if case.has_truth
    ]
    values = {metric: _present(case.mean(metric) for case in chosen) for metric in METRICS}
    scores = [scores for case in chosen for scores in case.classes.values()]
    return Summary(
        statistics={metric: _statistics(found) for metric, found in values.items() if found},
        cases=len(chosen),
        empty_predictions=sum(s.prediction_empty and not s.truth_empty for s in scores),
        empty_truths=sum(s.truth_empty for s in scores),
        sparse_truths=sum(case.sparse_truth for case in chosen),
    )


def _statistics(values: Sequence[float]) -> Statistics:
    return Statistics(
        count=len(values),
        mean=fmean(values),
        median=float(np.median(values)),
        minimum=min(values),
        maximum=max(values),
        deviation=float(np.std(values)),
    )


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _check(case: Case, classes: int) -> None:
    truth = case.truth
    if truth is not None and truth.shape != case.prediction.shape:
        raise GridMismatch(
            f"prediction has {case.prediction.shape} voxels, truth {truth.shape}",
            "both lie on one grid",
            "Predict on the grid of the label, or export on the source's",
            case.name,
        )
    for what, array in (("prediction", case.prediction), ("truth", truth)):
        if array is not None and array.size and array.max() >= classes:
            raise InvalidLabel(
                f"{what} holds class index {array.max()}",
                f"indices of {classes} classes end at {classes - 1}",
                "Use the class table that the network was trained with",
                case.name,
            )
