"""What is known of all volumes, and the suggestions that follow from it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_crln import config
from napari_crln.engine.coverage import annotated_slices
from napari_crln.engine.ranking import Choice, Slices, choose
from napari_crln.engine.survey import VolumeSurvey
from napari_crln.suggestions import Suggestion, Suggestions, in_mm2
from napari_crln.types import ShapeDHW, TargetDHW

#: %. That a slice is among the 96 % most unsure is no reason for it.
_WORTH_TELLING = 50


class Board:
    """Surveys and coverage of the volumes that may be trained on.

    Parameters
    ----------
    axes : slices across these are suggested; none: across each volume's own annotation axis
    """

    def __init__(self, axes: Sequence[int] | None = None) -> None:
        self._chosen = None if axes is None else tuple(axes)
        self._annotated: dict[str, dict[int, NDArray[np.bool_]]] = {}
        self._surveys: dict[str, VolumeSurvey] = {}

    def cover(self, name: str, target: TargetDHW | None, shape: ShapeDHW) -> None:
        """Take in a volume, or what is annotated of it by now."""
        self._annotated[name] = annotated_slices(target, shape, self._chosen)

    def axes_of(self, name: str) -> tuple[int, ...]:
        """Across which axes a volume is to be surveyed."""
        return tuple(self._annotated[name])

    def take(self, survey: VolumeSurvey) -> None:
        """Take in a survey, in place of an older one of the volume."""
        self._surveys[survey.name] = survey

    @property
    def surveyed(self) -> int:
        """How many volumes have been surveyed."""
        return len(self._surveys)

    def has(self, name: str) -> bool:
        """Whether a volume has been surveyed."""
        return name in self._surveys

    def suggestions(self, count: int, step: int, method: config.Method) -> Suggestions:
        """The best slices of what has been surveyed."""
        names, slices = self._slices()
        choices = [] if slices is None else choose(slices, count)
        items = () if slices is None else tuple(_suggestion(c, names, slices) for c in choices)
        return Suggestions(
            step=step,
            time=time.time(),
            surveyed=self.surveyed,
            volumes=len(self._annotated),
            note=_note(slices, method),
            items=items,
        )

    def _slices(self) -> tuple[list[str], Slices | None]:
        """All surveyed slices in order of volume, axis and index; None before the first survey."""
        found = sorted(
            (s.name, axis)
            for s in self._surveys.values()
            for axis in self.axes_of(s.name)
            if axis in s.tables
        )
        names = sorted({name for name, _ in found})
        number = {name: index for index, name in enumerate(names)}
        columns = [self._columns(number[name], name, axis) for name, axis in found]
        if not columns:
            return names, None
        joined: dict[str, Any] = {key: np.concatenate([c[key] for c in columns]) for key in columns[0]}
        joined["disagreement"] = _completed(joined["disagreement"])
        return names, Slices(**joined)

    def _columns(self, number: int, name: str, axis: int) -> dict[str, NDArray[Any]]:
        survey = self._surveys[name]
        table = survey.tables[axis]
        seen = np.flatnonzero(np.isfinite(table.uncertainty))
        disagreement = table.disagreement if survey.rectified else np.full(len(table.uncertainty), np.nan)
        return {
            "volume": np.full(len(seen), number, np.intp),
            "axis": np.full(len(seen), axis, np.intp),
            "index": seen,
            "uncertainty": table.uncertainty[seen],
            "disagreement": disagreement[seen],
            "features": table.features[seen],
            "annotated": self._annotated[name][axis][seen],
        }


def _completed(disagreement: NDArray[Any]) -> NDArray[np.float64] | None:
    """The median for volumes that were looked at before rectification began; None where all were."""
    values = np.asarray(disagreement, np.float64)
    known = np.isfinite(values)
    return np.where(known, values, np.median(values[known])) if known.any() else None


def _suggestion(choice: Choice, names: Sequence[str], slices: Slices) -> Suggestion:
    row = choice.row
    disagreement = None if slices.disagreement is None else float(slices.disagreement[row])
    return Suggestion(
        volume=names[slices.volume[row]],
        axis=int(slices.axis[row]),
        index=int(slices.index[row]),
        score=choice.gain,
        uncertainty=float(slices.uncertainty[row]),
        disagreement=disagreement,
        novelty=choice.novelty,
        stands_for=choice.stands_for,
        why=_why(slices, choice),
    )


def _why(slices: Slices, choice: Choice) -> str:
    """One line of words: each factor, against the other candidates where it is in favour, and what it stands for."""
    row = choice.row
    candidates = slices.uncertainty[~slices.annotated]
    top = 100 * float((candidates >= slices.uncertainty[row]).mean())
    among = f", among the {max(1, round(top))} % most unsure" if top <= _WORTH_TELLING else ""
    words = [f"unsure of {in_mm2(float(slices.uncertainty[row]))}{among}"]
    if slices.disagreement is not None:
        words.append(f"rectification disputes {100 * slices.disagreement[row]:.0f} % of that")
    if slices.annotated.any():
        words.append(f"looks less like annotated ones than {100 * choice.newer_than:.0f} % of the slices do")
    if choice.stands_for > 1:
        words.append(f"stands for {choice.stands_for} slices")
    return ", ".join(words)


def _note(slices: Slices | None, method: config.Method) -> str:
    if slices is None or slices.disagreement is not None:
        return ""
    if not method.uses_rectification:
        return f"{method.name} does not rectify: ranked by uncertainty and novelty alone."
    after = method.rectification.after
    return f"Rectification begins at iteration {after}: ranked by uncertainty and novelty until then."
