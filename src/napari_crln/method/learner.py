"""What a method trains: student, teacher and μ, and the random streams of one step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from napari_crln import config
from napari_crln.method.cps import Sample
from napari_crln.method.rectify import Trust, fuse
from napari_crln.method.teacher import make_teacher, update_teacher
from napari_crln.nn.dim import Clues
from napari_crln.nn.model import CrlnModel, Output


class Batch(NamedTuple):
    """Patches of one step, as sampled: normalised, not yet viewed."""

    #: Labelled intensities, (B, 1, D, H, W).
    x_l: Tensor
    #: Their targets, (B, D, H, W): class index or IGNORE.
    y_l: Tensor
    #: Unlabelled intensities, (B, 1, D, H, W).
    x_u: Tensor
    #: Where pseudo-labels may teach: not where padding invented the voxel, or somebody annotated it, (B, D, H, W).
    valid_u: Tensor


@dataclass
class StepResult:
    """What a method's step hands to the loop: a loss to descend, and scalars to log, all on the device."""

    loss: Tensor
    #: Each term as it enters the total.
    terms: dict[str, Tensor]
    measures: dict[str, Tensor] = field(default_factory=dict)
    #: Detached (z, M, y) of the labelled batch, where μ is to be fitted.
    labelled: tuple[Tensor, Tensor, Tensor] | None = None
    #: Anchors of CPS among the voxels of the joint batch as the student saw it (`trace.py` leads back).
    anchors: Sample | None = None


class Randomness:
    """Random streams of one step: functions of (seed, step, purpose) and of nothing else.

    So a resumed run draws what the unbroken one would have drawn without any saved state, and methods that
    share a seed see the same patches and views.
    """

    _PURPOSES = ("sampling", "weak views", "strong views", "cps", "dropout")

    def __init__(self, seed: int, step: int) -> None:
        self._key = (seed, step)
        self.step = step

    def numpy(self, purpose: str) -> np.random.Generator:
        """A NumPy generator for one of the purposes."""
        return np.random.default_rng([*self._key, self._PURPOSES.index(purpose)])

    def torch(self, device: torch.device) -> torch.Generator:
        """A generator on the device for the model's own draws (CPS)."""
        return torch.Generator(device).manual_seed(int(self.numpy("cps").integers(2**62)))

    def seed_dropout(self) -> None:
        """Reset torch's default generators, which dropout uses."""
        torch.manual_seed(int(self.numpy("dropout").integers(2**62)))


class Learner(nn.Module):
    """Student, teacher and μ of one run."""

    def __init__(self, student: CrlnModel, settings: config.Method) -> None:
        super().__init__()
        self.student = student
        self.teacher = make_teacher(student)
        self.trust = Trust(settings.rectification)
        self.settings = settings
        #: Whether the teacher has moved its own running statistics since the last `after_step`.
        self._own_statistics = False

    def watched(self) -> nn.Module:
        """What a step's forward passes move the statistics of: the teacher's only where it trains with its own."""
        return self if self.settings.teacher.mode == "train" else self.student

    @torch.no_grad()
    def teach(self, x_B1DHW: Tensor) -> tuple[Output, Clues | None]:
        """The teacher's output and, where the method has them, its own clues; no gradient."""
        self._own_statistics = self.settings.teacher.mode == "train"
        self.teacher.train(self._own_statistics)
        output = self.teacher(x_B1DHW)
        return output, self.teacher.clues(output) if self.settings.uses_clues else None

    @torch.no_grad()
    def infer(self, x_B1DHW: Tensor, use_clues: bool = True) -> Tensor:
        """Prediction of the teacher in eval mode: z + (1 - μ) M, or z alone; logits (B, C, D, H, W)."""
        self.teacher.eval()
        output: Output = self.teacher(x_B1DHW)
        if not (use_clues and self.settings.uses_clues):
            return output.logits_BCDHW
        return fuse(output.logits_BCDHW, self.teacher.clues(output).map_BCDHW, self.trust.mu)

    def after_step(
        self, result: StepResult, step: int, fused: bool = True, taken: Tensor | None = None
    ) -> None:
        """EMA step of the teacher, then one step of μ on the labelled batch; `step` counts from 0.

        `taken` is a scalar on the device: where it is false, nothing moves, and nobody waits for it. None: true.
        A teacher in train mode has running statistics of its own; a step that asks it nothing (`supervised`, `bcp`
        before its pseudo-labels) moves none, and they are averaged with the student's as in eval mode.
        """
        decay, buffers = self.settings.teacher.decay, not self._own_statistics
        update_teacher(self.teacher, self.student, step, decay, fused, taken, buffers=buffers)
        self._own_statistics = False
        if result.labelled is not None:
            self.trust.fit(*result.labelled, taken)
