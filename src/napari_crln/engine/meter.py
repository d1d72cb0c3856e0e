"""Running means between two `stepped` events; values stay on the device until they are read."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from napari_crln.engine.device import synchronise
from napari_crln.engine.memory import peak_memory_mb
from napari_crln.events import Stepped
from napari_crln.method.learner import StepResult
from napari_crln.method.losses import as_float


class Meter:
    """Sums losses and measures, and the time that steps take and that data take."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._reset()

    @property
    def count(self) -> int:
        """Steps since the last reading."""
        return self._count

    def add(self, result: StepResult, norm: Tensor, seconds: float, waiting: float) -> None:
        """Count one step of `seconds`, `waiting` of them for data."""
        losses = {"total": result.loss, **result.terms}
        values = {f"loss {k}": v for k, v in losses.items()} | {
            f"measure {k}": v for k, v in result.measures.items()
        }
        values["measure gradient_norm"] = norm
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + value.detach()
            self._counts[key] = self._counts.get(key, 0) + 1
        self._count += 1
        self._seconds += seconds
        self._waiting += waiting

    def settle(self) -> float:
        """Wait for the steps that the device has still to do; returns the seconds, which are of those steps."""
        start = now()
        synchronise(self._device)
        waited = now() - start
        self._seconds += waited
        return waited

    def read(self, step: int, iterations: int, learning_rate: float) -> Stepped:
        """The means as an event, then start again."""
        start = now()  # reading waits for the steps that the device has still to do
        sums = as_float({k: v for k, v in self._sums.items() if isinstance(v, Tensor)})
        means = {key: total / self._counts[key] for key, total in sums.items()}
        self._seconds += now() - start
        rate = self._count / max(self._seconds, 1e-9)
        event = Stepped(
            step=step,
            interval=self._count,
            losses=_named(means, "loss "),
            measures=_named(means, "measure "),
            learning_rate=learning_rate,
            rate=rate,
            data_wait=self._waiting / max(self._seconds, 1e-9),
            memory_mb=peak_memory_mb(self._device),
            remaining_s=(iterations - step) / rate,
        )
        self._reset()
        return event

    def _reset(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._counts: dict[str, int] = {}
        self._count = 0
        self._seconds = self._waiting = 0.0


def now() -> float:
    """Seconds on a clock that never goes back."""
    return time.perf_counter()


def _named(values: dict[str, float], prefix: str) -> dict[str, float]:
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
