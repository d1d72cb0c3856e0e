"""Keeps a step that fails, or whose loss or gradient is not finite, from leaving a trace in the learner.

The optimiser moves nothing then (`update.descend`). But the forward passes have moved BatchNorm's running statistics,
which the teacher averages and prediction uses: they are put back. On a CPU the verdict is read at once and the step
ends there, so the state is that of the last good step, to the bit. Elsewhere reading it would make the device wait:
it stays there, decides what is kept, and is read with the losses; the message still names the first bad step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from napari_crln.errors import TrainingDiverged

_NEVER = torch.iinfo(torch.int64).max


class StepGuard:
    """Watches over the steps of one learner.

    Parameters
    ----------
    learner : on its device
    deferred : leave verdicts on the device until `check`
    refusal : makes the error from what was not finite and the step, counted from 0
    """

    def __init__(self, learner: nn.Module, deferred: bool, refusal: Callable[[str, int], Exception]) -> None:
        self._buffers = list(learner.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]
        self._deferred, self._refusal = deferred, refusal
        device = self._buffers[0].device if self._buffers else torch.device("cpu")
        self._first_bad = torch.full((), _NEVER, dtype=torch.int64, device=device)

    @contextmanager
    def undoing(self) -> Iterator[None]:
        """Put the statistics back if the block fails."""
        self._copy(self._kept, self._buffers)
        try:
            yield
        except BaseException:
            self._copy(self._buffers, self._kept)
            raise

    @torch.no_grad()
    def judge(self, norm: Tensor, terms: Mapping[str, Tensor], step: int) -> None:
        """Take or refuse a step by its gradient's norm; in the block of `undoing`.

        Raises
        ------
        TrainingDiverged
            If it is not finite; where verdicts are deferred, `check` raises it.
        """
        if not self._deferred:
            if not math.isfinite(float(norm)):
                losses = {name: float(value) for name, value in terms.items()}
                raise self._refusal(_told(losses, float(norm)), step)
            return
        finite = torch.isfinite(norm)
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(torch.where(finite, buffer, kept))
        self._first_bad = torch.where(finite, self._first_bad, self._first_bad.clamp(max=step))

    def check(self, means: Mapping[str, float], norm: float) -> None:
        """Read the verdicts of the steps since the last time, with the means of their losses and gradient norms.

        Raises
        ------
        TrainingDiverged
            If a step was not finite; it names the first.
        """
        if not math.isfinite(norm):
            step = int(self._first_bad)
            self._first_bad = torch.full_like(self._first_bad, _NEVER)
            raise self._refusal(_told(means, norm), step)

    @staticmethod
    @torch.no_grad()
    def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
        if targets:
            torch._foreach_copy_(targets, sources)


def _told(losses: Mapping[str, float], norm: float) -> str:
    bad = [f"loss {name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
    return ", ".join(bad) or f"the gradient's norm is {norm}"


def diverged(rate: float, run: str, found: str, step: int) -> TrainingDiverged:
    """The error of a run with a learning rate, for what was not finite at a step counted from 0."""
    return TrainingDiverged(
        f"{found} at iteration {step}",
        "training goes on only with finite ones; no weight was moved by it",
        f"Resume with a learning rate below {rate:g}",
        run,
    )
