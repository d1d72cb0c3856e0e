"""What training changes, as one object that can be saved and restored: learner, optimiser, step.

Nothing random is in it: every draw is a function of seed and step (`method.learner.Randomness`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from napari_crln import config
from napari_crln.engine.checkpoint import Snapshot
from napari_crln.engine.speed import Speed, compile_networks, lay_out
from napari_crln.errors import RunError
from napari_crln.method.baselines import plain_cutmix
from napari_crln.method.learner import Learner
from napari_crln.nn.model import build_model
from napari_crln.nn.network import check_patch


@dataclass
class TrainingState:
    """Learner and optimiser after `step` optimiser steps."""

    learner: Learner
    optimiser: torch.optim.SGD
    class_names: tuple[str, ...]
    step: int = 0
    best_dice: float = -1.0
    #: Sizes of `config.Batches` that were halved to fit in memory; None: as configured.
    fitted: dict[str, Any] | None = None

    @classmethod
    def initial(
        cls, settings: config.RunConfig, class_names: tuple[str, ...], device: torch.device
    ) -> TrainingState:
        """The state before the first step; weights follow the seed."""
        learner = build_learner(settings, len(class_names), device)
        options, speed = settings.optimiser, Speed.of(settings, device)
        if speed.compiled:
            compile_networks(learner)
        optimiser = torch.optim.SGD(
            parameter_groups(learner.student, options),
            lr=options.learning_rate,
            momentum=options.momentum,
            nesterov=options.momentum > 0,
            fused=speed.fused,
            foreach=False,
        )
        if options.momentum:
            _start_momentum(optimiser)
        return cls(learner, optimiser, class_names)

    def snapshot(self) -> Snapshot:
        """All of it, as a checkpoint holds it."""
        momentum = {
            name: self.optimiser.state[parameter]["momentum_buffer"]
            for name, parameter in self.learner.student.named_parameters()
            if self.optimiser.state.get(parameter, {}).get("momentum_buffer") is not None
        }
        tensors = {
            "student": self.learner.student.state_dict(),
            "teacher": self.learner.teacher.state_dict(),
            "trust": self.learner.trust.state_dict(),
            "optimiser": momentum,
        }
        state = {"class_names": list(self.class_names), "best_dice": self.best_dice, "fitted": self.fitted}
        return Snapshot(self.step, tensors, state)

    def restore(self, snapshot: Snapshot) -> None:
        """Take over a checkpoint.

        Raises
        ------
        RunError
            If its classes are not this project's.
        """
        names = tuple(snapshot.state["class_names"])
        if names != self.class_names:
            raise RunError(
                f"trained on classes {', '.join(names)}",
                f"the project's classes are {', '.join(self.class_names)}",
                "Start a new run",
            )
        load_learner(self.learner, snapshot)
        for name, parameter in self.learner.student.named_parameters():
            if name in snapshot.tensors["optimiser"]:
                # In the layout of the parameter, as the optimiser would have made it.
                buffer = torch.empty_like(parameter).copy_(snapshot.tensors["optimiser"][name])
                self.optimiser.state[parameter]["momentum_buffer"] = buffer.detach()
        self.step = snapshot.step
        self.best_dice = float(snapshot.state["best_dice"])
        self.fitted = snapshot.state.get("fitted")


def parameter_groups(student: torch.nn.Module, options: config.Optimiser) -> list[dict[str, Any]]:
    """What weight decay acts on, and what it spares: all but the weights of convolutions and linear maps."""
    if options.decay == "all":
        return [{"params": list(student.parameters()), "weight_decay": options.weight_decay}]
    kernels = {
        id(m.weight)
        for m in student.modules()
        if isinstance(m, torch.nn.Linear | torch.nn.modules.conv._ConvNd)
    }
    decayed = [p for p in student.parameters() if id(p) in kernels]
    spared = [p for p in student.parameters() if id(p) not in kernels]
    return [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]


def _start_momentum(optimiser: torch.optim.SGD) -> None:
    """Momentum from 0: the same first step as torch's own start, momentum = gradient.

    Torch's fused optimiser would make the buffers of its first step uninitialised, and leave them so where
    that step is skipped because its gradient is not finite.
    """
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)


def build_learner(settings: config.RunConfig, classes: int, device: torch.device) -> Learner:
    """Student, teacher and μ on the device; torch's global generators are left as they were."""
    method = settings.method
    if method.name == "cutmix":
        method = plain_cutmix(method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = build_model(settings, classes)
    check_patch(settings.batches.patch, model.backbone.stride)  # type: ignore[arg-type]
    return lay_out(Learner(model, method).to(device), Speed.of(settings, device))


def load_learner(learner: Learner, snapshot: Snapshot) -> None:
    """Copy a checkpoint's weights into a learner of the same configuration."""
    _load(learner.student, snapshot.tensors["student"])
    _load(learner.teacher, snapshot.tensors["teacher"])
    _load(learner.trust, snapshot.tensors["trust"])


def _load(module: torch.nn.Module, tensors: Mapping[str, Tensor]) -> Any:
    return module.load_state_dict(dict(tensors), strict=True)
