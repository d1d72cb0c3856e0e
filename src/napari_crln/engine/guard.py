"""Keeps a step that fails, or whose loss or gradient is not finite, from leaving a trace in the learner.

The optimiser moves nothing then (`update.descend`). But the forward passes have moved BatchNorm's running statistics,
which the teacher averages and prediction uses: they are put back. On a CPU the verdict is read at once and the step
ends there, so the state is that of the last good step, to the bit. Elsewhere reading it would make the device wait:
it stays there, decides what is kept and whether teacher and μ move (`Learner.after_step`), and is read with the losses; the
message still names the first bad step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from napari_crln.errors import TrainingDiverged

#: Times the usual loss; a step over a patch with few, wrong labels makes three to five of it.
_FAR = 20.0
_NEVER = torch.iinfo(torch.int64).max


class StepGuard:
    """Watches over the steps of one learner.

    Parameters
    ----------
    learner : what a step's forward passes change the statistics of, on its device
    deferred : leave verdicts on the device until `check`
    refusal : makes the error from what was not finite and the step, counted from 0
    """

    def __init__(self, learner: nn.Module, deferred: bool, refusal: Callable[[str, int], Exception]) -> None:
        self._statistics = _by_dtype(learner.buffers())
        self._deferred, self._refusal = deferred, refusal
        device = next((buffer.device for buffer in learner.buffers()), torch.device("cpu"))
        self._first_bad = torch.full((), _NEVER, dtype=torch.int64, device=device)

    @contextmanager
    def undoing(self) -> Iterator[None]:
        """Put the statistics back if the block fails."""
        for statistics in self._statistics:
            statistics.keep()
        try:
            yield
        except BaseException:
            for statistics in self._statistics:
                statistics.put_back()
            raise

    @torch.no_grad()
    def judge(self, norm: Tensor, terms: Mapping[str, Tensor], step: int) -> Tensor | None:
        """Take or refuse a step by its gradient's norm; in the block of `undoing`.

        Returns
        -------
        Where verdicts are deferred whether the step is taken, a scalar on the device; else None: it is.

        Raises
        ------
        TrainingDiverged
            If it is not finite; where verdicts are deferred, `check` raises it.
        """
        if not self._deferred:
            if not math.isfinite(float(norm)):
                losses = {name: float(value) for name, value in terms.items()}
                raise self._refusal(_told(losses, float(norm)), step)
            return None
        finite = torch.isfinite(norm)
        for statistics in self._statistics:
            statistics.put_back_unless(finite)
        self._first_bad = torch.where(finite, self._first_bad, self._first_bad.clamp(max=step))
        return finite

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


class BlowUp:
    """Whether the loss was growing without bound before it was no number any more: what is saved then would fail again at once."""

    def __init__(self) -> None:
        self._usual = self._now = math.nan

    def saw(self, total: float) -> None:
        """The loss, as it was reported last."""
        self._now = total
        if math.isnan(self._usual):
            self._usual = total

    def saved(self) -> None:
        """A checkpoint was written: what is seen now is usual."""
        if not self.under_way:
            self._usual = self._now

    @property
    def under_way(self) -> bool:
        """Whether the loss is far from that at the last checkpoint, or at the start."""
        return self._now > _FAR * self._usual


class _Copies:
    """Copies of tensors of one dtype, end to end in one tensor: a network has many small ones, and a kernel each is dear."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._kept = self._joined()

    @torch.no_grad()
    def keep(self) -> None:
        """Remember what they hold now."""
        self._kept = self._joined()

    def put_back(self) -> None:
        """Give them what was kept."""
        self._spread(self._kept)

    def put_back_unless(self, good: Tensor) -> None:
        """The same where a scalar on the device is false; nobody waits for it."""
        self._spread(torch.where(good, self._joined(), self._kept))

    def _joined(self) -> Tensor:
        return torch.cat([tensor.flatten() for tensor in self._tensors])

    @torch.no_grad()
    def _spread(self, joined: Tensor) -> None:
        parts = torch.split(joined, [tensor.numel() for tensor in self._tensors])
        views = [part.view_as(tensor) for part, tensor in zip(parts, self._tensors, strict=True)]
        torch._foreach_copy_(self._tensors, views)


def _by_dtype(tensors: Iterable[Tensor]) -> list[_Copies]:
    groups: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.dtype, []).append(tensor)
    return [_Copies(group) for group in groups.values()]


def _told(losses: Mapping[str, float], norm: float) -> str:
    bad = [f"loss {name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
    return ", ".join(bad) or f"the gradient's norm is {norm}"


def _lower(rate: float) -> float:
    """A tenth, as one types it."""
    return float(f"{rate / 10:.1g}")


def diverged(rate: float, run: str, found: str, step: int) -> TrainingDiverged:
    """The error of a run with a learning rate, for what was not finite at a step counted from 0."""
    return TrainingDiverged(
        f"{found} at iteration {step}",
        "training goes on only with finite ones; no weight was moved by it",
        f"Resume with a learning rate below {rate:g}, e.g. --set optimiser.learning_rate={_lower(rate):g}",
        run,
    )
