"""What makes a step fast, each a switch of `config.Engine`; the slow way gives the same numbers, to rounding.

`auto` is what paid where it was measured. Compiling is not among it: on two CPU cores it gains 7 % and costs a
minute; on CUDA `benchmarks/step.py` tells what it gains. That cuDNN tries its algorithms first is on unmeasured: the sizes of
patches and windows never change, the case that it is made for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from napari_crln import config
from napari_crln.method.learner import Learner


@dataclass(frozen=True)
class Speed:
    """The switches, decided for a device."""

    channels_last: bool
    fused: bool
    compiled: bool
    autotuned: bool

    @classmethod
    def of(cls, settings: config.Engine, device: torch.device) -> Speed:
        """`auto`: channels last and fused where torch has them, on a CPU and on CUDA; not compiled."""
        able = device.type in ("cpu", "cuda")
        return cls(
            channels_last=_decide(settings.channels_last, able),
            fused=_decide(settings.fused, able),
            compiled=_decide(settings.compile, False),
            autotuned=_decide(settings.autotune, True),
        )


def lay_out(learner: Learner, speed: Speed) -> Learner:
    """The learner with its weights in the memory format that is asked for, and cuDNN told how to choose."""
    torch.backends.cudnn.benchmark = speed.autotuned
    layout = torch.channels_last_3d if speed.channels_last else torch.contiguous_format
    return learner.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


def compile_networks(learner: Learner, backend: str = "inductor") -> None:
    """Compile student's and teacher's backbone and DIM in place; names and weights stay what they were."""
    for model in (learner.student, learner.teacher):
        for part in (model.backbone, model.dim):
            if part is not None:
                part.compile(backend=backend, dynamic=False)


def _decide(switch: config.Switch, automatic: bool) -> bool:
    return automatic if switch == "auto" else switch == "on"
