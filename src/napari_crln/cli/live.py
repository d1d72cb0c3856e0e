"""What a person sees of a training run: one live line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from napari_crln.cli.console import console, remark
from napari_crln.events import Event, Paused, Started, Stepped, Validated, Warned

_LINE_EVERY_S = 15.0


class TrainingDisplay:
    """Shows events as they come; a context manager.

    Parameters
    ----------
    iterations : optimiser steps in all
    quiet : show nothing
    """

    def __init__(self, iterations: int, quiet: bool = False) -> None:
        self._iterations, self._quiet = iterations, quiet
        self._terminal = sys.stderr.isatty() and not quiet
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._dice = ""
        self._next_line = 0.0

    def __enter__(self) -> TrainingDisplay:
        if self._terminal:
            columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[says]}", markup=False))
            self._bar = Progress(*columns, console=console(sys.stderr))
            self._task = self._bar.add_task("", total=self._iterations, says="starting")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, event: Event) -> None:
        """Take in one event."""
        match event:
            case Started():
                self._remark(
                    f"{event.method}: {event.labelled} labelled and {event.unlabelled} unlabelled volumes, "
                    f"{event.parameters / 1e6:.2f} M parameters"
                    + (f", resumed at iteration {event.step}" if event.resumed else "")
                )
                for d in event.differences:
                    if d.rule == "free":  # the others come as warnings
                        self._remark(
                            f"{d.field} changes from {d.before} to {d.after}, which changes nothing learned"
                        )
            case Stepped():
                self._line(event.step, describe(event) + self._dice)
            case Validated():
                self._dice = f"  Dice {event.dice * 100:.1f}"
                self._remark(f"iteration {event.step}: validation Dice {event.dice * 100:.1f} %")
            case Paused():
                self._remark(f"paused at iteration {event.step}")
            case Warned():
                self._remark(event.message)

    def _line(self, step: int, text: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=step, says=text)
        elif not self._quiet and (time.monotonic() >= self._next_line or step >= self._iterations):
            remark(f"{step}/{self._iterations}  {text}")
            self._next_line = time.monotonic() + _LINE_EVERY_S

    def _remark(self, text: str) -> None:
        if self._bar is None:
            if not self._quiet:
                remark(text)
        else:
            self._bar.console.print(text, markup=False)


def describe(event: Stepped) -> str:
    """Rate, time left, losses and μ of a report, on one line."""
    parts: list[Any] = [f"{event.rate:.2f} it/s"]
    if event.remaining_s is not None:
        minutes, seconds = divmod(round(event.remaining_s), 60)
        parts.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left")
    parts += [f"{name} {value:.3f}" for name, value in event.losses.items()]
    if "mu" in event.measures:
        parts.append(f"μ {event.measures['mu']:.3f}")
    return "  ".join(parts)
