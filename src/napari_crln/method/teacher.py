"""The teacher: exponential moving average of the student (Tarvainen & Valpola 2017), buffers included unless it has its own."""

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
    teacher: nn.Module,
    student: nn.Module,
    step: int,
    decay: float,
    fused: bool = True,
    taken: Tensor | None = None,
    *,
    buffers: bool = True,
) -> None:
    """θ̄ ← d θ̄ + (1 - d) θ over parameters and floating-point buffers; counters are copied.

    Parameters
    ----------
    fused : take all tensors in a few kernels; otherwise each has one of its own
    taken : a scalar on the device, whether to move θ̄ at all; a step that is not has moved no counter. None: move
    buffers : off: the parameters alone, as the teacher's own forward passes move its running statistics
    """
    averaged_t, averaged_s = _floating(teacher, buffers), _floating(student, buffers)
    weight = 1.0 - ema_decay(step, decay)
    if taken is not None:
        _lerp_where(taken, averaged_t, averaged_s, weight)
    elif fused:
        torch._foreach_lerp_(averaged_t, averaged_s, weight)
    else:
        for mine, theirs in zip(averaged_t, averaged_s, strict=True):
            mine.lerp_(theirs, weight)
    counters = _counters(teacher) if buffers else []
    if counters:
        torch._foreach_copy_(counters, _counters(student))


def _lerp_where(taken: Tensor, mine: list[Tensor], theirs: list[Tensor], weight: float) -> None:
    """The same numbers as a plain lerp, or those before, without reading which: one factor is 1, the other 0.

    Four sweeps over finite numbers, where a choice (`torch.where`) would be a kernel or two for each tensor.
    """
    moved = torch._foreach_lerp(mine, theirs, weight)
    factor = taken.float()
    torch._foreach_mul_(moved, factor)
    torch._foreach_mul_(mine, 1 - factor)
    torch._foreach_add_(mine, moved)


def _floating(module: nn.Module, buffers: bool) -> list[Tensor]:
    tensors = (*module.parameters(), *(module.buffers() if buffers else ()))
    return [t for t in tensors if t.is_floating_point()]


def _counters(module: nn.Module) -> list[Tensor]:
    return [t for t in module.buffers() if not t.is_floating_point()]
