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
    #: Whether cuDNN may round the factors of float32 convolutions to TF32; no where float32 is asked for.
    tf32: bool = True

    @classmethod
    def of(cls, settings: config.RunConfig, device: torch.device) -> Speed:
        """`auto`: channels last and fused where torch has them, on a CPU and on CUDA; not compiled.

        The U-Net's norm takes channels last on a CPU only: elsewhere torch copies to the plain layout in each, and back.
        """
        able = device.type in ("cpu", "cuda")
        keeps_layout = able and (device.type == "cpu" or settings.network.name != "unet3d")
        engine = settings.engine
        return cls(
            channels_last=_decide(engine.channels_last, keeps_layout),
            fused=_decide(engine.fused, able),
            compiled=_decide(engine.compile, False),
            autotuned=_decide(engine.autotune, True),
            tf32=engine.precision != "fp32",
        )


def lay_out(learner: Learner, speed: Speed) -> Learner:
    """The learner with its weights in the memory format that is asked for, and cuDNN told how to choose, and to round."""
    torch.backends.cudnn.benchmark = speed.autotuned
    torch.backends.cudnn.allow_tf32 = speed.tf32
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
