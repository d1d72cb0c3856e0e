"""Suggest which slices to label next, while training goes on or from a checkpoint.

In a run, volumes are surveyed one after the other with whatever weights the teacher has by then, one batch of
coarse tiles between two training steps at most, within a part of the time for previews. What was surveyed stays
until it is looked at again, so the list improves from early on and never waits for a whole round. It is ranked and
published after a round, every 20 s within a long one, and at once when labels have changed.

As previews do, this changes nothing of what is learned, and a fault in it becomes a `warned` event.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from torch import Tensor

from napari_crln import config, durable, events
from napari_crln.engine.board import Board
from napari_crln.engine.budget import Budget
from napari_crln.engine.cohort import Case
from napari_crln.engine.data import TrainingData
from napari_crln.engine.device import autocast, synchronise
from napari_crln.engine.meter import now
from napari_crln.engine.predict import Windowing
from napari_crln.engine.preview import modes_kept
from napari_crln.engine.state import TrainingState
from napari_crln.engine.survey import Surveyed, survey_steps
from napari_crln.method.learner import Learner
from napari_crln.method.slices import SliceBelief, slice_belief
from napari_crln.suggestions import Suggestions
from napari_crln.types import TargetDHW

_PUBLISH_S = 20.0  # between lists within a long round
_ROUND_S = 10.0  # between starts of rounds
_REST_S = 60.0  # after a fault
_BURST_S = 0.2  # while paused
_ADVANCE_S = 2.0  # of work before any is earned, as previews have: so the first list comes early, and is paid for later
_FIRST = 8  # volumes without labels that the first list must know, if there are as many

_Round: TypeAlias = Generator[events.Suggested | None, None, None]


class Suggester:
    """Keeps `suggestions.json` of one run up to date; the loop calls it, and yields the events that it gives.

    Parameters
    ----------
    state : what is trained; only read
    data : labelled and unlabelled volumes are looked at, no others
    settings : of the run
    folder : run folder
    clock : seconds
    settle : waits for the device to finish its steps; returns the seconds, which count as training
    """

    def __init__(
        self,
        state: TrainingState,
        data: TrainingData,
        settings: config.RunConfig,
        folder: Path,
        *,
        clock: Callable[[], float] = now,
        settle: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._state, self._settings = state, settings
        self._clock, self._settle = clock, settle
        self._path = folder / events.SUGGESTIONS_FILE
        self._device = next(state.learner.parameters()).device
        self.budget = Budget(settings.engine.preview_share, advance_s=_ADVANCE_S)
        self._board = Board()
        self._cases: dict[str, Case] = {case.name: case for case in (*data.labelled, *data.unlabelled)}
        self._labelled: set[str] = set()
        for case in self._cases.values():
            self.relabel(case.name, case.target)
        self._order = _order(data, settings.seed)
        self._round: _Round | None = None
        self._round_step, self._next_round, self._next_list = -1, -np.inf, -np.inf
        self._relabelled = False
        self._told = ""

    @property
    def part(self) -> float:
        """Share of the time for previews that is wanted here."""
        return self._settings.engine.suggestion_share if self._settings.engine.suggestions else 0.0

    def relabel(self, name: str, target: TargetDHW | None) -> None:
        """Take in what is annotated of a volume by now, (D, H, W); the next list heeds it, and comes at once."""
        d, h, w = self._cases[name].image.shape
        self._board.cover(name, target, (d, h, w))
        if target is None:
            self._labelled.discard(name)
        else:
            self._labelled.add(name)
        self._relabelled = True

    def resize(self, settings: config.RunConfig) -> None:
        """Look through windows of another patch from now on."""
        self._settings = settings
        self.drop()

    def after_step(self, training_s: float) -> Iterator[events.Event]:
        """One piece of work, if the budget has it, after `training_s` of training that count for this part."""
        self.budget.earn(training_s)
        may = self.budget.left_s > 0 or (self.budget.share > 0 and self._must_rank())
        if self.part > 0 and may and self._has_work():
            self.budget.earn(self._settle())
            start = self._clock()
            event = self._guarded()
            synchronise(self._device)
            self.budget.spend(self._clock() - start)
            if event is not None:
                yield event

    def while_paused(self) -> Iterator[events.Event]:
        """Work for a moment, for free; nothing, once all volumes have been looked at with the present weights."""
        began = self._clock()
        while self.part * self.budget.share > 0 and self._clock() - began < _BURST_S and self._has_work():
            event = self._guarded()
            if event is not None:
                yield event

    def drop(self) -> None:
        """Give up what is unfinished."""
        unfinished, self._round = self._round, None
        if unfinished is not None:
            unfinished.close()

    def _has_work(self) -> bool:
        """Whether a round is under way or due, or labels have changed since the last list."""
        if self._round is None and self._state.step != self._round_step and self._clock() >= self._next_round:
            self._round_step, self._next_round = self._state.step, self._clock() + _ROUND_S
            self._round = self._make_round()
        return self._round is not None or self._must_rank()

    def _guarded(self) -> events.Event | None:
        """One batch of tiles or one list; a fault of any kind is told once, and the work rests."""
        try:
            if self._must_rank():
                return self._publish()
            return None if self._round is None else next(self._round)
        except StopIteration:
            self._round = None
            return None
        except Exception as error:
            self.drop()
            self._relabelled, self._next_round = False, self._clock() + _REST_S
            told, self._told = self._told, str(error) or type(error).__name__
            message = f"no suggestions for now: {self._told}"
            return None if told == self._told else events.Warned(step=self._state.step, message=message)

    def _make_round(self) -> _Round:
        windowing = Windowing.of(self._settings)
        for name in self._order:
            case, step = self._cases[name], self._state.step
            look = looking(self._state.learner, self._settings, step)
            axes = self._board.axes_of(name)
            for survey in survey_steps(look, case, axes, windowing, self._device, step):
                if survey is None:
                    yield None
                else:
                    self._board.take(survey)
            if self._clock() >= self._next_list and self._knows_enough():
                yield self._publish()
        yield self._publish()

    def _must_rank(self) -> bool:
        """Whether labels have changed since the last list: it is ranked anew even in debt, which costs little."""
        return self._relabelled and self._knows_enough()

    def _knows_enough(self) -> bool:
        """Whether a list is worth something: what is annotated is known, and some of what is not."""
        known = [name for name in self._order if self._board.has(name)]
        return len(known) >= min(len(self._cases), len(self._labelled) + _FIRST)

    def _publish(self) -> events.Suggested:
        self._relabelled, self._next_list = False, self._clock() + _PUBLISH_S
        settings = self._settings
        found = self._board.suggestions(settings.engine.suggestions, self._state.step, settings.method)
        write_suggestions(self._path, found)
        self._told = ""
        return events.Suggested(
            step=self._state.step, count=len(found.items), surveyed=found.surveyed, volumes=found.volumes
        )


def suggest(
    learner: Learner,
    settings: config.RunConfig,
    volumes: Iterable[tuple[Surveyed, TargetDHW | None]],
    *,
    step: int,
    count: int,
    axes: tuple[int, ...] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Suggestions:
    """Suggestions by a trained learner: every volume is looked at once.

    Parameters
    ----------
    volumes : each with its target, None where nothing is annotated; taken one at a time
    step : optimiser steps that the learner has done
    axes : across which slices lie; none: across each volume's own annotation axis
    progress : told the name of each volume before it is looked at
    """
    board, windowing = Board(axes), Windowing.of(settings)
    device = next(learner.parameters()).device
    look = looking(learner, settings, step)
    for volume, target in volumes:
        progress(volume.name)
        d, h, w = volume.image.shape
        board.cover(volume.name, target, (d, h, w))
        for survey in survey_steps(look, volume, board.axes_of(volume.name), windowing, device, step):
            if survey is not None:
                board.take(survey)
    return board.suggestions(count, step, learner.settings)


def looking(learner: Learner, settings: config.RunConfig, step: int) -> Callable[[Tensor], SliceBelief]:
    """How the teacher of a step looks at windows; it is set back to the mode that it has."""
    rectifies = step >= settings.method.rectification.after

    def look(windows_b1dhw: Tensor) -> SliceBelief:
        precision = autocast(windows_b1dhw.device, settings.engine.precision)
        with modes_kept(learner.teacher), precision:
            return slice_belief(learner, windows_b1dhw, rectifies)

    return look


def write_suggestions(path: Path, suggestions: Suggestions) -> None:
    """Replace the file in one step."""
    durable.replace(path, suggestions.model_dump_json(indent=1).encode())


def _order(data: TrainingData, seed: int) -> list[str]:
    """What is annotated first, as all novelty is measured from there; the rest in an order that the seed decides."""
    unlabelled = [case.name for case in data.unlabelled]
    mixed = np.random.default_rng([seed, 4]).permutation(len(unlabelled))
    return [*(case.name for case in data.labelled), *(unlabelled[index] for index in mixed)]
