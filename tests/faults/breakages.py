"""What a test breaks in a process before its command line runs; by name, so that it can be asked for over a pipe."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from napari_crln.engine import control, fitting, loop, segment
from napari_crln.engine.update import descend
from napari_crln.method.learner import Batch, Learner, Randomness, StepResult

METHOD = "mean-teacher"
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # of glibc's malloc.h


def loss_becomes(spec: dict[str, Any]) -> None:
    """The consistency term, and with it the total, becomes NaN or infinite at a step, as a bad forward pass makes it."""
    genuine, factor = loop.STEPS[METHOD], float(spec["value"])

    def step(learner: Learner, batch: Batch, number: int, random: Randomness) -> StepResult:
        result = genuine(learner, batch, number, random)
        if number == spec["step"]:
            term = result.terms["consistency"] + factor * result.loss.detach()
            result.terms["consistency"] = term
            result.loss = result.loss * factor + term
            for buffer in learner.student.buffers():
                if buffer.is_floating_point():
                    buffer.data.fill_(float("nan"))
        return result

    loop.STEPS[METHOD] = step


def gradient_becomes(spec: dict[str, Any]) -> None:
    """The loss is finite, its gradient is not."""
    at = iter(range(1_000_000))

    def broken(optimiser: torch.optim.SGD, loss: torch.Tensor, *rest: Any) -> torch.Tensor:
        if next(at) == spec["step"]:
            weight = optimiser.param_groups[0]["params"][0]
            weight.register_hook(lambda gradient: gradient * float(spec["value"]))
        return descend(optimiser, loss, *rest)

    loop.descend = broken


def memory_ends_at(spec: dict[str, Any]) -> None:
    """An allocator, CUDA's or the CPU's by its own words, that gives out when a step has more voxels than `voxels`."""
    genuine = loop.STEPS[METHOD]

    def step(learner: Learner, batch: Batch, number: int, random: Randomness) -> StepResult:
        voxels = batch.x_l.numel() + batch.x_u.numel()
        result = genuine(learner, batch, number, random)
        if voxels > spec["voxels"] and number >= spec.get("from", 0):
            raise _exhausted(spec["device"])
        return result

    loop.STEPS[METHOD] = fitting.STEPS[METHOD] = step


def prediction_exhausts(spec: dict[str, Any]) -> None:
    """An allocator that gives out when more windows than `windows` are predicted at once."""
    genuine = segment.InferNetwork.__call__

    def call(self: segment.InferNetwork, windows_b1dhw: torch.Tensor) -> torch.Tensor:
        if len(windows_b1dhw) > spec["windows"]:
            raise _exhausted(spec["device"])
        return genuine(self, windows_b1dhw)

    segment.InferNetwork.__call__ = call  # type: ignore[method-assign]


def _exhausted(device: str) -> Exception:
    if device == "cuda":
        return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")
    return RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")


def address_space(spec: dict[str, Any]) -> None:
    """The process may map so many bytes more than it has mapped now (RLIMIT_AS).

    What it frees it unmaps, and its threads share one heap: holes and reserves would count as well.
    """
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    with open("/proc/self/statm") as file:  # noqa: PTH123 - as cheap as it gets: memory is what is measured
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    limit = mapped + int(spec["bytes"])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def clock(spec: dict[str, Any]) -> None:
    """The wall clock stands elsewhere, and runs on from there; `backwards` makes it run back."""
    began, direction = time.monotonic(), -1 if spec.get("backwards") else 1

    def wrong() -> float:
        return float(spec["epoch"]) + direction * (time.monotonic() - began)

    genuine = time.strftime
    time.time = wrong
    time.strftime = lambda form, moment=None: genuine(form, moment or time.gmtime(wrong()))
    time.time_ns = lambda: int(wrong() * 1e9)


def versions(spec: dict[str, Any]) -> None:
    """The run's software says that it is another."""
    import platform

    torch.__version__ = spec["torch"]
    platform.python_version = lambda: str(spec["python"])


def notes_signals(spec: dict[str, Any]) -> None:
    """Writes down, in a file, how many steps had begun when a signal came."""
    genuine, note, begun = loop.STEPS[METHOD], control.Interrupts._note, [0]

    def step(learner: Learner, batch: Batch, number: int, random: Randomness) -> StepResult:
        begun[0] = number + 1
        return genuine(learner, batch, number, random)

    def noting(self: control.Interrupts, number: int, frame: FrameType | None) -> None:
        Path(spec["file"]).write_text(str(begun[0]), "utf-8")
        note(self, number, frame)

    loop.STEPS[METHOD], control.Interrupts._note = step, noting  # type: ignore[method-assign]


def signals_in(spec: dict[str, Any]) -> None:
    """A signal comes at the first call of a function, named by its module."""
    module, _, name = spec["function"].rpartition(".")
    genuine, first = getattr(sys.modules[module], name), iter([True])

    def call(*arguments: Any, **options: Any) -> Any:
        if next(first, False):
            os.kill(os.getpid(), getattr(signal, spec["signal"]))
        return genuine(*arguments, **options)

    setattr(sys.modules[module], name, call)


BREAKAGES: dict[str, Callable[[dict[str, Any]], None]] = {
    function.__name__: function
    for function in (
        loss_becomes,
        gradient_becomes,
        memory_ends_at,
        address_space,
        clock,
        versions,
        notes_signals,
        prediction_exhausts,
        signals_in,
    )
}
