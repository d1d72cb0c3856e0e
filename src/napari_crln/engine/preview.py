"""Previews: the teacher's maps of the volume that somebody looks at, made between training steps.

A cycle makes two generations: the slab about the focused slice, as thick as a patch, then the whole volume; then
it starts over with newer weights. It is a generator that stops after each batch of windows, so training waits
for no more than that, and a new focus elsewhere just closes it. Time is limited to a share of training's
(`budget.Budget`), in bursts, so that a GPU is seldom made to catch up. While training is paused nothing is limited,
and one cycle is made.

Nothing here changes what is learned: the teacher is asked without gradient and in eval mode, is set back to the
mode of each of its modules, and no random number is drawn. Nothing here ends training either: a fault becomes
a `warned` event, and previews rest for a while.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from napari_crln import config, events
from napari_crln.engine.anchors import AnchorTrace
from napari_crln.engine.budget import Budget
from napari_crln.engine.cohort import Case
from napari_crln.engine.data import TrainingData
from napari_crln.engine.device import synchronise
from napari_crln.engine.failpoint import failpoint
from napari_crln.engine.maps import BeliefMaps, Believer, maps_of
from napari_crln.engine.meter import now
from napari_crln.engine.predict import Slab, Windowing, blend_steps
from napari_crln.engine.scales import Scales, stored_maps
from napari_crln.engine.state import TrainingState
from napari_crln.errors import ConfigError
from napari_crln.method.cps import Sample
from napari_crln.previews import MAX_CLASSES, FocusRecord, PreviewRecord, Region
from napari_crln.types import ShapeDHW

if TYPE_CHECKING:  # loads Zarr, which a run without previews does without
    from napari_crln.engine.generations import Draft, Generations

#: Previews are made in bursts of these seconds, if the budget has them.
_BURST_S = (0.1, 0.5)
_INTERVAL_S = 1.0  # between starts of cycles, at least: viewers draw no faster
_REST_S = 60.0  # after a fault
_OVERLAP = 0.25  # of windows: a third of the cost of prediction's 0.5
_ON_DEVICE = 1 << 30  # bytes: larger sums of windows are kept in the machine's memory

#: What `Previewer.obey` takes.
PreviewCommand: TypeAlias = events.Focus | events.PreviewBudget | events.PreviewSimilarity
_Cycle: TypeAlias = Generator[events.Previewed | None, None, None]


class Previewer:
    """Makes previews for one run; the loop calls it, and yields the events that it gives.

    Parameters
    ----------
    state : what is trained; only read
    data : volumes that may be looked at
    settings : of the run
    folder : run folder; `preview.zarr` is made in it when needed
    anchors : leads the anchors of steps back to their volumes; none: generations have no anchors
    clock : seconds
    settle : waits for the device to finish its steps; returns the seconds, which count as training
    """

    def __init__(
        self,
        state: TrainingState,
        data: TrainingData,
        settings: config.RunConfig,
        folder: Path,
        anchors: AnchorTrace | None = None,
        *,
        clock: Callable[[], float] = now,
        settle: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._state, self._settings = state, settings
        self._clock, self._settle = clock, settle
        self._device = next(state.learner.parameters()).device
        self._path = folder / events.PREVIEW
        cases = [*data.unlabelled, *data.labelled, *data.validation]
        self._cases = {case.name: case for case in reversed(cases)}
        self.budget = Budget(settings.engine.preview_share)
        self._focus = _middle_of(cases[0])
        self._prototype = 0
        self._anchors = anchors
        self._generations: Generations | None = None
        self._scales = Scales()
        self._cycle: _Cycle | None = None
        self._shown: tuple[str, Region] | None = None  # volume and slab of the last cycle
        self._costs_s: deque[float] = deque(maxlen=5)  # of the last batches of windows
        self._begun_step, self._next_at = -1, -np.inf
        self._told = ""

    def resize(self, settings: config.RunConfig, anchors: AnchorTrace) -> None:
        """Look through windows of another patch from now on, and ask another trace: batches are drawn anew."""
        self._settings, self._anchors = settings, anchors
        self.drop()

    def saw(self, step: int, anchors: Sample | None) -> None:
        """Keep what a step, counted from 0, drew as anchors: a reference, no copy and no wait for the device."""
        if self._anchors is not None and self.budget.share > 0:
            self._anchors.remember(step, anchors)

    def obey(self, command: PreviewCommand) -> Iterator[events.Warned]:
        """Look elsewhere or at other scores, dropping work on what is no longer looked at, or spend otherwise."""
        if isinstance(command, events.PreviewBudget):
            self.budget.share = command.share
        elif isinstance(command, events.PreviewSimilarity):
            yield from self._choose(command.prototype)
        else:
            yield from self._look_at(command)

    def _choose(self, prototype: int) -> Iterator[events.Warned]:
        method = self._settings.method
        most = method.dim.prototypes if method.uses_clues else 0
        if prototype > most:
            yield self._warned(f"no similarity to prototype {prototype}: a class has {most}")
        elif prototype != self._prototype:
            self._prototype = prototype
            self.drop()

    def _look_at(self, command: events.Focus) -> Iterator[events.Warned]:
        case = self._cases.get(command.volume)
        if case is None:
            yield self._warned(f"no preview of {command.volume!r}: not a volume that this run has loaded")
            return
        index = min(command.index, case.image.shape[command.axis] - 1)
        self._focus = command.model_copy(update={"index": index})
        if self._shown is None or not _shows(*self._shown, self._focus, case):
            self.drop()

    def after_step(self, training_s: float) -> Iterator[events.Event]:
        """Work as far as the budget goes, after a step that took so many seconds."""
        self.budget.earn(training_s)
        # A forward pass of a batch seldom takes more than a quarter of a step; the first one is slow, and no rule.
        expected_s = min(median(self._costs_s or [training_s]), training_s / 4)
        if self.budget.left_s >= max(expected_s, _BURST_S[0]):
            self.budget.earn(self._settle())
            yield from self._burst(lambda: self.budget.left_s >= expected_s, self.budget.spend)

    def while_paused(self) -> Iterator[events.Event]:
        """Work for a moment, for free; nothing, once the present weights have been shown."""
        if self.budget.share > 0:
            yield from self._burst(lambda: True, lambda _: None)

    def drop(self) -> None:
        """Give up what is unfinished, and look afresh."""
        cycle, self._cycle = self._cycle, None
        self._begun_step, self._next_at = -1, -np.inf
        if cycle is not None:
            cycle.close()

    def _burst(self, may_go_on: Callable[[], bool], spend: Callable[[float], None]) -> Iterator[events.Event]:
        began = self._clock()
        while may_go_on() and self._clock() - began < _BURST_S[1] and self._has_work():
            start = self._clock()
            event = self._guarded()
            synchronise(self._device)
            self._costs_s.append(self._clock() - start)
            spend(self._costs_s[-1])
            if event is not None:
                yield event

    def _has_work(self) -> bool:
        """Whether a cycle is under way or due: not twice with the same weights."""
        if self._cycle is None and self._state.step != self._begun_step and self._clock() >= self._next_at:
            self._begun_step, self._next_at = self._state.step, self._clock() + _INTERVAL_S
            self._cycle = self._make_cycle()
        return self._cycle is not None

    def _guarded(self) -> events.Event | None:
        """One batch of windows; a fault of any kind is told once, and previews rest."""
        assert self._cycle is not None
        failpoint("loop:preview")
        try:
            return next(self._cycle)
        except StopIteration:
            self._cycle = None
            self.budget.end_advance()  # of the untrained network once is enough: later previews come the sooner
            return None
        except Exception as error:
            self.drop()
            self._next_at = self._clock() + _REST_S
            told, self._told = self._told, str(error) or type(error).__name__
            return None if told == self._told else self._warned(f"no preview for now: {self._told}")

    def _make_cycle(self) -> _Cycle:
        case = self._cases[self._focus.volume]
        slab, whole = _slab(self._focus, case, self._settings.batches.patch), _whole(case)
        self._shown = case.name, slab
        for region in (slab, whole) if slab != whole else (whole,):
            yield from self._generation(case, region)

    def _generation(self, case: Case, region: Region) -> _Cycle:
        """Compute, write and announce the maps of a region; None after each batch of windows."""
        if len(self._state.class_names) > MAX_CLASSES:
            raise ConfigError(
                f"{len(self._state.class_names)} classes",
                f"previews show at most {MAX_CLASSES}",
                "Set it to 0",
                "engine.preview_share",
            )
        step, shape = self._state.step, _size(region)
        prototype = self._prototype
        believe = Believer(self._state.learner, self._settings, step, prototype)
        writer = self._writer()
        draft = writer.begin(shape)
        self._scales.begin(case.name)
        try:
            for slab in self._blended(believe, case, region):
                if slab is None:
                    yield None
                else:
                    maps = maps_of(slab.probability_CDHW, believe.groups)
                    self._append(draft, maps, last=slab.stop == shape[0])
            record = self._record(draft.generation, case, region, step, prototype)
            draft.publish(record)
        finally:
            draft.abandon()
        writer.prune()
        self._told = ""
        yield self._previewed(record)

    def _blended(self, believe: Believer, case: Case, region: Region) -> Iterator[Slab | None]:
        """Values of the region's windows, blended as prediction does."""
        learner = self._state.learner
        windowing = replace(Windowing.of(self._settings), stride=None, overlap=_OVERLAP)
        _, height, width = _size(region)
        values = believe.groups * len(self._state.class_names) + 1
        voxels = windowing.patch[0] * max(height, windowing.patch[1]) * max(width, windowing.patch[2])
        home = self._device if 4 * values * voxels <= _ON_DEVICE else torch.device("cpu")

        def of_windows(windows_b1dhw: Tensor) -> Tensor:
            with modes_kept(learner.teacher):
                return believe(windows_b1dhw.to(self._device)).to(home)

        d, h, w = (slice(*ends) for ends in region)
        image = case.part((d, h, w))
        return blend_steps(of_windows, image, windowing, normalise=case.normalisation.apply, device=home)

    def _append(self, draft: Draft, maps: BeliefMaps, last: bool) -> None:
        for name, values in stored_maps(maps).items():
            quantisation = self._scales.of(name, values, last)
            draft.append(name, quantisation.quantise(values), quantisation)

    def _record(
        self, generation: int, case: Case, region: Region, step: int, prototype: int
    ) -> PreviewRecord:
        d, h, w = case.image.shape
        focus = self._focus
        return PreviewRecord(
            generation=generation,
            volume=case.name,
            step=step,
            step_done=self._state.step,
            time=time.time(),
            shape=(d, h, w),
            region=region,
            spacing=case.spacing,
            classes=self._state.class_names,
            focus=FocusRecord(axis=focus.axis, index=focus.index, generation=focus.generation),
            maps=self._scales.records(),
            prototype=prototype,
            anchors=None if self._anchors is None else self._anchors.within(case.name, case.image.shape),
        )

    def _previewed(self, record: PreviewRecord) -> events.Previewed:
        return events.Previewed(
            step=record.step_done,
            generation=record.generation,
            volume=record.volume,
            maps=list(record.maps),
            region=record.region,
            focus=record.focus.generation,
        )

    def _writer(self) -> Generations:
        """Made late: the folder is only ours once the loop holds the run's lock."""
        if self._generations is None:
            from napari_crln.engine.generations import Generations

            self._generations = Generations(self._path, self._settings.engine.preview_history)
        return self._generations

    def _warned(self, message: str) -> events.Warned:
        return events.Warned(step=self._state.step, message=message)


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Set every module back to the train or eval mode that it has now."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _middle_of(case: Case) -> events.Focus:
    return events.Focus(volume=case.name, axis=0, index=case.image.shape[0] // 2)


def _whole(case: Case) -> Region:
    d, h, w = case.image.shape
    return (0, d), (0, h), (0, w)


def _slab(focus: events.Focus, case: Case, patch: ShapeDHW) -> Region:
    """Whole planes across the focused axis, as many as a patch is thick, the focused one in their middle."""
    size, thickness = case.image.shape[focus.axis], patch[focus.axis]
    start = max(0, min(focus.index - thickness // 2, size - thickness))
    region = list(_whole(case))
    region[focus.axis] = start, min(size, start + thickness)
    return region[0], region[1], region[2]


def _shows(volume: str, region: Region, focus: events.Focus, case: Case) -> bool:
    """Whether a region of a volume has all of the focused slice."""
    start, stop = region[focus.axis]
    others = [
        (mine, all_)
        for axis, (mine, all_) in enumerate(zip(region, _whole(case), strict=True))
        if axis != focus.axis
    ]
    return volume == case.name and start <= focus.index < stop and all(mine == all_ for mine, all_ in others)


def _size(region: Region) -> ShapeDHW:
    d, h, w = (stop - start for start, stop in region)
    return d, h, w
