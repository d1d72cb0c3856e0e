"""The teacher: exponential moving average of the student, buffers included (Tarvainen & Valpola 2017)."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def make_teacher(student: AnyModule) -> AnyModule:
    """A copy of the student that takes no gradient."""
    teacher = copy.deepcopy(student)
    teacher.requires_grad_(False)
    return teacher


def ema_decay(step: int, decay: float) -> float:
    """Decay with warm-up, min(decay, 1 - 1/(step + 1)): at step 0 the teacher becomes the student."""
    return min(decay, 1.0 - 1.0 / (step + 1))


@torch.no_grad()
def update_teacher(
    teacher: nn.Module, student: nn.Module, step: int, decay: float, fused: bool = True
) -> None:
    """θ̄ ← d θ̄ + (1 - d) θ over parameters and floating-point buffers; counters are copied.

    `fused` takes all tensors in a few kernels, otherwise each has one of its own.
    """
    averaged_t, averaged_s = _floating(teacher), _floating(student)
    weight = 1.0 - ema_decay(step, decay)
    if fused:
        torch._foreach_lerp_(averaged_t, averaged_s, weight)
    else:
        for mine, theirs in zip(averaged_t, averaged_s, strict=True):
            mine.lerp_(theirs, weight)
    counters = _counters(teacher)
    if counters:
        torch._foreach_copy_(counters, _counters(student))


def _floating(module: nn.Module) -> list[Tensor]:
    return [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]


def _counters(module: nn.Module) -> list[Tensor]:
    return [t for t in module.buffers() if not t.is_floating_point()]
