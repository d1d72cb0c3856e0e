"""What fits in memory where a training step did not: a smaller batch, else a smaller patch, each truly tried.

Counting activations would miss what the allocator, the libraries and other processes take. So each size is tried:
forward and backward on made-up patches, with a copy of the learner, so that nothing of the run moves.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import torch

from napari_crln import config
from napari_crln.engine.device import autocast
from napari_crln.engine.memory import is_out_of_memory, release
from napari_crln.errors import OutOfMemory
from napari_crln.method.baselines import STEPS
from napari_crln.method.learner import Batch, Learner, Randomness
from napari_crln.types import ShapeDHW


def smaller(sizes: config.Batches, stride: ShapeDHW) -> Iterator[config.Batches]:
    """Sizes in the order in which they are tried: half the batch down to one patch of each kind, then half the patch.

    Of the patch its longest side is halved, to a multiple of the network's stride. The bottleneck keeps two voxels of
    each kind, as BatchNorm needs.
    """
    cells = [side // step for side, step in zip(sizes.patch, stride, strict=True)]
    while max(sizes.labelled, sizes.unlabelled) > 1:
        halved = {"labelled": -(-sizes.labelled // 2), "unlabelled": -(-sizes.unlabelled // 2)}
        sizes = sizes.model_copy(update=halved)
        if min(halved.values()) * prod(cells) >= 2:
            yield sizes
    while prod(cells) > 2:
        longest = cells.index(max(cells))
        cells[longest] //= 2
        patch = tuple(cell * step for cell, step in zip(cells, stride, strict=True))
        if prod(cells) >= 2:
            yield sizes.model_copy(update={"patch": patch})


def largest_that_fits(
    learner: Learner, settings: config.RunConfig, device: torch.device, step: int
) -> config.Batches | None:
    """The first of the `smaller` sizes whose step fits; None if none does."""
    stride = learner.student.backbone.stride

    def fits(sizes: config.Batches) -> bool:
        release(device)
        return _fits(lambda: _trial(learner, settings, sizes, device, step))

    return next(filter(fits, smaller(settings.batches, stride)), None)  # type: ignore[arg-type]


def in_effect(settings: config.RunConfig, fitted: Mapping[str, Any] | None) -> config.RunConfig:
    """The configuration with the sizes that a run has gone on with (`TrainingState.fitted`), if it has.

    Prediction's windows are patches, and no further apart than they are long: voxels between would be left out.
    """
    if fitted is None:
        return settings
    sizes = settings.batches.model_copy(update={**fitted, "patch": tuple(fitted["patch"])})
    stride = settings.predicting.stride
    update = {} if stride is None else {"stride": tuple(map(min, stride, sizes.patch))}
    predicting = settings.predicting.model_copy(update=update)
    return settings.model_copy(update={"batches": sizes, "predicting": predicting})


def does_not_fit(sizes: config.Batches, fitting: config.Batches | None) -> OutOfMemory:
    """The error for a step of such sizes; it names those that fit."""
    return OutOfMemory(
        f"a step of {describe(sizes)} does not fit",
        "a step must fit the device's memory",
        "No smaller step fits either: lower network.base_filters or method.dim.width, or free memory"
        if fitting is None
        else f"{describe(fitting)} would fit: resume with --set engine.on_out_of_memory=halve, or train a new run "
        f"with {as_options(fitting)}",
        "training",
    )


def gone_on_with(former: config.Batches, fitting: config.Batches) -> str:
    """What a run says that goes on with less."""
    return f"a step of {describe(former)} does not fit in memory: on with {describe(fitting)}"


def describe(sizes: config.Batches) -> str:
    """Batch and patch in words."""
    return f"{sizes.labelled} + {sizes.unlabelled} patches of {' × '.join(map(str, sizes.patch))} voxels"


def as_options(sizes: config.Batches) -> str:
    """Batch and patch as the command line takes them."""
    patch = ",".join(map(str, sizes.patch))
    batch = f"--set batches.labelled={sizes.labelled} --set batches.unlabelled={sizes.unlabelled}"
    return f"{batch} --set batches.patch=[{patch}]"


def _fits(trial: Callable[[], None]) -> bool:
    try:
        trial()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _trial(
    learner: Learner, settings: config.RunConfig, sizes: config.Batches, device: torch.device, step: int
) -> None:
    """Forward and backward of one step; the copy and its gradients are dropped."""
    twin = copy.deepcopy(learner)
    twin.student.train()
    batch = _made_up(sizes, device)
    with autocast(device, settings.engine.precision):
        result = STEPS[settings.method.name](twin, batch, step, Randomness(settings.seed, step))
    result.loss.backward()  # type: ignore[no-untyped-call]


def _made_up(sizes: config.Batches, device: torch.device) -> Batch:
    """Patches of the right size and type; half of each is foreground, so that every term has work to do."""
    generator = torch.Generator().manual_seed(0)

    def noise(count: int) -> torch.Tensor:
        return torch.rand((count, 1, *sizes.patch), generator=generator).to(device)

    x_l, x_u = noise(sizes.labelled), noise(sizes.unlabelled)
    y_l = (x_l[:, 0] > 0.5).to(torch.int16)
    return Batch(x_l, y_l, x_u, torch.ones_like(x_u[:, 0], dtype=torch.bool))
