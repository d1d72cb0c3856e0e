"""Validation during training: the teacher's prediction of the held-out volumes, scored by Dice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_crln import config
from napari_crln.engine.cohort import Case
from napari_crln.engine.device import autocast
from napari_crln.engine.failpoint import failpoint
from napari_crln.engine.metrics import dice
from napari_crln.engine.predict import Windowing, predict_labels
from napari_crln.engine.reading import naming
from napari_crln.engine.state import TrainingState
from napari_crln.events import Validated
from napari_crln.method.learner import Learner
from napari_crln.types import IGNORE


class InferNetwork:
    """The learner's teacher as a network of the sliding window: windows in, logits out.

    Parameters
    ----------
    learner : on its device
    settings : of its run
    clues : predict from z + (1 - μ) M, or from z alone
    """

    def __init__(self, learner: Learner, settings: config.RunConfig, clues: bool | None = None) -> None:
        self._learner, self._precision = learner, settings.engine.precision
        self._clues = settings.predicting.clues if clues is None else clues

    def __call__(self, windows_b1dhw: torch.Tensor) -> torch.Tensor:
        """Logits (b, C, d, h, w)."""
        with autocast(windows_b1dhw.device, self._precision):
            return self._learner.infer(windows_b1dhw, self._clues)


def validate(
    state: TrainingState,
    cases: Sequence[Case],
    settings: config.RunConfig,
    device: torch.device,
    cancelled: Callable[[], bool] = lambda: False,
) -> Validated:
    """Predict and score; updates `state.best_dice`.

    Raises
    ------
    Cancelled
        As asked, between two batches of windows.
    DamagedVolume
        If one of the cases, read from disk, is damaged.
    """
    network, windowing = InferNetwork(state.learner, settings), Windowing.of(settings)
    classes, options = len(state.class_names), {"device": device, "cancelled": cancelled}
    scores = np.array([_score(network, windowing, case, classes, options) for case in cases])
    of_class = {name: _mean(column) for name, column in zip(state.class_names[1:], scores.T, strict=True)}
    mean = _mean(np.array(list(of_class.values())))
    best = mean > state.best_dice
    if best:
        state.best_dice = mean
    return Validated(
        step=state.step,
        dice=mean,
        per_class=of_class,
        per_volume={case.name: _mean(row) for case, row in zip(cases, scores, strict=True)},
        best=best,
    )


def _mean(scores: NDArray[np.float64]) -> float:
    """Mean of those that are a number; NaN where none is."""
    numbers = scores[~np.isnan(scores)]
    return float(numbers.mean()) if len(numbers) else float("nan")


def _score(
    network: InferNetwork, windowing: Windowing, case: Case, classes: int, options: dict[str, Any]
) -> list[float]:
    """Dice of each foreground class over labelled voxels; NaN where there is none to find nor found."""
    failpoint("loop:validate")
    with naming(case.name):
        predicted = predict_labels(
            network, case.image, windowing, normalise=case.normalisation.apply, **options
        )
    assert case.target is not None
    seen = case.target != IGNORE
    scores = [dice((predicted == k) & seen, case.target == k) for k in range(1, classes)]
    return [float("nan") if score is None else score for score in scores]
