"""The training loop: `for event in Trainer.of(project, config, folder): …`.

The loop owns the run folder while it runs: it appends the events that it yields, obeys the inbox, keeps
checkpoints, and ends each way out with a checkpoint and an `ended` event. Where a run folder already holds
a checkpoint, it goes on from there, bit for bit on a CPU: state is in the checkpoint, and every random draw
is a function of seed and step.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari_crln import config, events
from napari_crln.engine import checkpoint, fitting
from napari_crln.engine.anchors import AnchorTrace
from napari_crln.engine.control import EventLog, Inbox, Interrupts
from napari_crln.engine.data import Batches, TrainingData
from napari_crln.engine.device import autocast, cautions, choose_device, use_threads
from napari_crln.engine.failpoint import failpoint
from napari_crln.engine.guard import BlowUp, StepGuard, diverged
from napari_crln.engine.labels_intake import LabelsIntake
from napari_crln.engine.memory import memory_guard, trim_heap
from napari_crln.engine.meter import Meter, now
from napari_crln.engine.patience import Patience
from napari_crln.engine.predict import Cancelled
from napari_crln.engine.preview import PreviewCommand, Previewer
from napari_crln.engine.provenance import differences, remarks, stamped
from napari_crln.engine.reading import DamagedVolume, set_aside
from napari_crln.engine.speed import Speed
from napari_crln.engine.state import TrainingState
from napari_crln.engine.suggest import Suggester
from napari_crln.engine.telling import started
from napari_crln.engine.update import descend, learning_rate
from napari_crln.engine.validate import validate
from napari_crln.errors import CrlnError, OutOfMemory, TrainingDiverged
from napari_crln.lock import Lock
from napari_crln.method.baselines import STEPS
from napari_crln.method.learner import Randomness

if TYPE_CHECKING:  # data may come from elsewhere than a project
    from napari_crln.volume.project import Project

Reason = Literal["finished", "stopped", "interrupted", "failed"]
_REASONS: dict[type[BaseException], Reason] = {GeneratorExit: "stopped", KeyboardInterrupt: "interrupted"}
_POLL_S = 0.2
_NEEDS_LESS = "Lower network.base_filters or batches.patch, or free memory"


class Trainer:
    """One run. Iterate to train; each item is the event that was just written.

    Parameters
    ----------
    data : volumes in memory
    settings : configuration of the run
    folder : an existing run folder (`run.folder.RunFolder.create`)
    project : where the data come from: labels that change there are taken in; none: they never change

    Raises
    ------
    ConfigError, ProjectError, RunError
        As soon as it is made, if the run cannot start; RunError also if another process holds the folder.
    """

    def __init__(
        self, data: TrainingData, settings: config.RunConfig, folder: Path, project: Project | None = None
    ) -> None:
        use_threads(settings.engine)
        self.settings = settings  # as in effect: batches are smaller than configured where those do not fit
        self._configured = settings
        self.folder = folder
        self.device = choose_device(settings.engine.device)
        self._project = project
        self._speed = Speed.of(settings, self.device)
        self._meter = Meter(self.device)
        with memory_guard("the network with the volumes", _NEEDS_LESS, folder.name):
            self.state = TrainingState.initial(settings, data.class_names, self.device)
            self._draw_from(data)
        refusal = partial(diverged, settings.optimiser.learning_rate, folder.name)
        self._blow_up = BlowUp()
        self._guard = StepGuard(self.state.learner.watched(), self.device.type != "cpu", refusal)
        self._previewer = Previewer(
            self.state, data, settings, folder, self._anchors, settle=self._meter.settle
        )
        self._suggester = Suggester(self.state, data, settings, folder, settle=self._meter.settle)
        self._patience = Patience(folder, lambda: self._snapshot() if self._sound else None)
        self._saved = -1
        self._differences: list[events.Difference] = []
        #: Whether `state` is what some whole number of steps made: not before it is restored, nor amid an update.
        self._sound = False

    @classmethod
    def of(cls, project: Project, settings: config.RunConfig, folder: Path) -> Trainer:
        """Train on a project's volumes by their roles."""
        data = TrainingData.of(project, settings.engine, choose_device(settings.engine.device))
        return cls(data, settings, folder, project)

    def __iter__(self) -> Iterator[events.Event]:
        with Lock(self.folder), EventLog(self.folder) as log, Interrupts() as interrupts:
            self._patience.hurried = lambda: interrupts.stop_requested
            inbox = Inbox(self.folder)
            inbox.drop_stale()
            ended = False
            try:
                with memory_guard("the run", _NEEDS_LESS, self.folder.name):
                    for event in self._train(inbox, interrupts):
                        self._patience(partial(log.append, event), log.reopen)
                        if isinstance(event, events.Checkpointed | events.Ended):
                            self._patience(log.sync, log.reopen)
                        ended = isinstance(event, events.Ended)
                        yield event
            except BaseException as error:
                if not ended:
                    self._end_badly(log, error)
                raise
            finally:
                self._previewer.drop()
                self._labels.close()
                self._suggester.drop()

    def _train(self, inbox: Inbox, interrupts: Interrupts) -> Iterator[events.Event]:
        skipped = self._restore()
        self._sound = True
        yield started(self.state, self.settings, self._data, self._differences, resumed=self._saved >= 0)
        known = [*remarks(skipped, self._differences), *cautions(self.device, self.settings.engine.precision)]
        yield from map(self._warned, [*known, *self._data.warnings])
        began = now()
        reason: Reason | None = None
        while reason is None and self.state.step < self.settings.iterations:
            reason = yield from self._obey(inbox, interrupts)
            if reason is None:
                yield from self._take_labels()
                seconds = yield from self._advance()
                yield from self._report()
                yield from self._look_about(seconds)
        yield from self._flush()
        if self._saved != self.state.step:
            yield self._checkpoint()
        told = f"interrupted by {interrupts.signal_name}" if reason == "interrupted" else ""
        seconds = now() - began
        yield events.Ended(step=self.state.step, reason=reason or "finished", message=told, seconds=seconds)

    def _advance(self) -> Generator[events.Event, None, float]:
        """A step; with less, if the configuration says so, where it does not fit in memory; without damaged volumes."""
        while True:
            damaged = None
            with contextlib.suppress(OutOfMemory):  # and with it the frames that hold the step's tensors
                try:
                    return self._step()
                except DamagedVolume as error:
                    damaged = error
            yield self._make_fit() if damaged is None else self._without(damaged)

    def _without(self, damaged: DamagedVolume) -> events.Warned:
        """Go on with the other volumes; the error itself where no labelled one would be left."""
        self._labels.forget(damaged.volume)
        if not self._batches.set_aside(damaged.volume):
            raise damaged
        self._anchors.forget()
        return self._warned(set_aside(damaged.volume, damaged))

    def _make_fit(self) -> events.Warned:
        """Go on with the largest batch and patch that fit; OutOfMemory, naming them, where that is not asked for."""
        self.state.optimiser.zero_grad(set_to_none=True)
        former = self.settings.batches
        fits = fitting.largest_that_fits(self.state.learner, self.settings, self.device, self.state.step)
        if fits is None or self.settings.engine.on_out_of_memory == "stop":
            raise fitting.does_not_fit(former, fits)
        self._resize(fits.model_dump(include={"patch", "labelled", "unlabelled"}, mode="json"))
        return self._warned(fitting.gone_on_with(former, fits))

    def _resize(self, fitted: dict[str, Any]) -> None:
        """Draw batches of these sizes, and look through windows of this patch, from now on and after a resume."""
        self.state.fitted = fitted
        self.settings = fitting.in_effect(self._configured, fitted)
        self._labels.close()
        unanswered = self._labels.unanswered()
        data = self._data
        if self._project is not None:  # labels may have changed since
            data = TrainingData.of(self._project, self.settings.engine, self.device)
        self._draw_from(data)
        self._previewer.resize(self.settings, self._anchors)
        self._suggester.resize(self.settings)
        for name in unanswered:
            self._labels.want(events.LabelsChanged(volume=name, revision=0), self.state.step)

    def _draw_from(self, data: TrainingData) -> None:
        """Take batches from these volumes, at the sizes in effect, and labels as they change from now on."""
        self._data: TrainingData = data
        self._batches: Batches = Batches(data, self.settings, self.device)
        self._labels: LabelsIntake = LabelsIntake(self._project, data, self._batches)
        self._anchors: AnchorTrace = AnchorTrace(self._batches, self.settings)

    def _step(self) -> float:
        """One iteration: batch, losses, optimiser, teacher and μ; returns the seconds it took."""
        start = now()
        state, step = self.state, self.state.step
        random = Randomness(self.settings.seed, step)
        random.seed_dropout()
        failpoint("loop:batch")
        batch = self._batches.at(random)
        waited = now() - start
        state.learner.student.train()
        rate = learning_rate(step, self.settings.iterations, self.settings.optimiser)
        with memory_guard("a step", _NEEDS_LESS, self.folder.name):
            with self._guard.undoing():
                with autocast(self.device, self.settings.engine.precision):
                    result = STEPS[self.settings.method.name](state.learner, batch, step, random)
                failpoint("loop:step")
                norm = descend(state.optimiser, result.loss, rate, self.settings.optimiser.clip_norm)
                taken = self._guard.judge(norm, {"total": result.loss, **result.terms}, step)
            self._sound = False
            failpoint("loop:optimised")
            state.learner.after_step(result, step, self._speed.fused, taken)
            state.step += 1
            self._sound = True
        seconds = now() - start
        self._meter.add(result, norm, seconds, waited)
        self._previewer.saw(step, result.anchors)
        return seconds

    def _look_about(self, seconds: float) -> Iterator[events.Event]:
        """Previews and suggestions, which share what they may take of the time of a step."""
        part = self._suggester.part
        yield from self._previewer.after_step((1 - part) * seconds)
        yield from self._suggester.after_step(part * seconds)

    def _report(self) -> Iterator[events.Event]:
        """Events that are due after a step; a signal breaks a validation off."""
        step, engine, validated = self.state.step, self.settings.engine, None
        if step % engine.log_every == 0:
            yield from self._flush()
        if engine.validate_every and step % engine.validate_every == 0 and self._data.validation:
            validated = yield from self._validate()
        if validated is not None:
            yield validated
        best = validated is not None and validated.best
        if best or step % engine.checkpoint_every == 0:
            yield self._checkpoint(best)

    def _validate(self) -> Generator[events.Event, None, events.Validated | None]:
        """Score the validation volumes; without those whose data turn out to be damaged."""
        windows = f"a validation with {self.settings.predicting.batch} windows at once"
        while cases := self._data.validation:
            try:
                with memory_guard(windows, "Resume with a lower predicting.batch", self.folder.name):
                    return validate(self.state, cases, self.settings, self.device, self._patience.hurried)
            except Cancelled:
                break
            except DamagedVolume as error:
                self._data = replace(self._data, validation=[c for c in cases if c.name != error.volume])
                yield self._warned(set_aside(error.volume, error))
        return None

    def _flush(self) -> Iterator[events.Event]:
        if self._meter.count:
            rate = learning_rate(self.state.step - 1, self.settings.iterations, self.settings.optimiser)
            event = self._meter.read(self.state.step, self.settings.iterations, rate)
            self._guard.check(event.losses, event.measures["gradient_norm"])
            self._blow_up.saw(event.losses["total"])
            yield event

    def _checkpoint(self, best: bool = False) -> events.Checkpointed:
        save = partial(
            checkpoint.save, self.folder / events.CHECKPOINTS, keep=self.settings.engine.keep, best=best
        )
        path = self._patience(partial(save, self._snapshot()))
        self._saved = self.state.step
        self._blow_up.saved()
        trim_heap()  # of the copies that were written, and whatever else is free
        return events.Checkpointed(step=self.state.step, path=path.relative_to(self.folder).as_posix())

    def _snapshot(self) -> checkpoint.Snapshot:
        return stamped(self.state.snapshot(), self._configured, self.device)

    def _obey(self, inbox: Inbox, interrupts: Interrupts) -> Generator[events.Event, None, Reason | None]:
        """Act on commands and signals; while paused, wait here. Returns why to end, or None."""
        paused = False
        while True:
            if interrupts.stop_requested:
                return "interrupted"
            for command in inbox.poll():
                if isinstance(command, events.Stop):
                    inbox.done()
                    return "stopped"
                if isinstance(command, events.Pause) and not paused:
                    paused = True
                    yield from self._pause()
                elif isinstance(command, events.Resume) and paused:
                    paused = False
                    yield events.Continued(step=self.state.step)
                elif isinstance(command, PreviewCommand):
                    yield from self._previewer.obey(command)
                    self._suggester.budget.share = self._previewer.budget.share
                elif isinstance(command, events.LabelsChanged):
                    self._labels.want(command, self.state.step)
            for message in inbox.warnings():
                yield self._warned(message)
            if not paused:
                return None
            failpoint("loop:paused")
            yield from self._take_labels()
            yield from self._previewer.while_paused()
            yield from self._suggester.while_paused()
            time.sleep(_POLL_S)

    def _take_labels(self) -> Iterator[events.Event]:
        """Go on with labels that changed; what is suggested next heeds them."""
        for event in self._labels.take(self.state.step):
            if isinstance(event, events.LabelsTaken):
                self._anchors.forget()
                self._suggester.relabel(event.volume, self._batches.target(event.volume))
            yield event

    def _pause(self) -> Iterator[events.Event]:
        yield from self._flush()
        if self._saved != self.state.step:
            yield self._checkpoint()
        yield events.Paused(step=self.state.step)

    def _restore(self) -> list[str]:
        """Go on from the last sound checkpoint, under the lock; return why later ones were skipped.

        Raises
        ------
        CorruptCheckpoint
            If there are checkpoints and none is sound: starting over would hide the loss.
        ConfigError
            If the configuration differs from the checkpoint's where it may not.
        """
        failpoint("loop:restore")
        folder = self.folder / events.CHECKPOINTS
        snapshot, skipped = checkpoint.latest(folder)
        if snapshot is not None:
            self._differences = differences(snapshot.state, self._configured, self.device)
            self.state.restore(snapshot)
            if self.state.fitted is not None:
                self._resize(self.state.fitted)
            self._saved = self.state.step
        elif skipped:
            raise checkpoint.none_sound(folder, skipped)
        return skipped

    def _end_badly(self, log: EventLog, error: BaseException) -> None:
        """Save what is sound and write down the end: the caller stopped, a second Ctrl-C, or a fault."""
        reason: Reason = _REASONS.get(type(error), "failed")
        with contextlib.suppress(CrlnError, OSError):  # the fault that is being reported matters more
            exploded = isinstance(error, TrainingDiverged) and self._saved >= 0 and self._blow_up.under_way
            if self._sound and reason != "interrupted" and self._saved != self.state.step and not exploded:
                log.append(self._checkpoint())
        with contextlib.suppress(CrlnError, OSError):
            log.append(events.Ended(step=self.state.step, reason=reason, message=str(error)))
            log.sync()

    def _warned(self, message: str) -> events.Warned:
        return events.Warned(step=self.state.step, message=message)
