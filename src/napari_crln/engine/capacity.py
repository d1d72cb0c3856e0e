"""Whether a project's volumes fit in memory: estimated from their headers, before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from napari_crln import config
from napari_crln.volume.memory import available
from napari_crln.volume.stored import Volume

#: Of the memory that is free, what volumes may take: network, activations and previews need the rest.
SHARE = 0.5
_GIBI = 1 << 30


@dataclass(frozen=True)
class Holding:
    """How the volumes of a run are held.

    Parameters
    ----------
    streamed : read from disk, patch by patch
    needed : bytes that all of them take in memory
    free : bytes that were free; none: the system does not tell
    warning : what the user should know
    """

    streamed: bool
    needed: int
    free: int | None
    warning: str | None = None


def plan_holding(volumes: Sequence[Volume], settings: config.Engine, device: torch.device) -> Holding:
    """Decide as `engine.cohort` says; `auto` streams what would take more than half of the free memory."""
    needed, free = sum(map(resident_bytes, volumes)), free_bytes(device)
    fits = free is None or needed <= SHARE * free
    streamed = settings.cohort == "streamed" or (settings.cohort == "auto" and not fits)
    if fits or settings.cohort == "streamed":
        return Holding(streamed, needed, free)
    told = f"volumes take {_gib(needed)} in memory, of which {_gib(free)} are free"
    if streamed:
        return Holding(True, needed, free, f"{told}: patches are read from disk while it trains")
    return Holding(False, needed, free, f"{told}: training may fail; engine.cohort = streamed needs less")


def resident_bytes(volume: Volume) -> int:
    """What a volume takes when it is held: image in a dtype of torch's, and target where it has one."""
    image = volume.image
    held = min(image.dtype.itemsize, 4)
    target = 2 if volume.has_annotation and volume.role in ("labelled", "validation") else 0
    return int(np.prod(image.shape)) * (held + target)


def free_bytes(device: torch.device) -> int | None:
    """Free memory: what this process may take, and on a GPU the device's where that is less; volumes pass through both."""
    machine = available()
    if device.type != "cuda":
        return machine
    of_device, _ = torch.cuda.mem_get_info(device)
    return of_device if machine is None else min(of_device, machine)


def _gib(count: int | None) -> str:
    return f"{(count or 0) / _GIBI:.1f} GiB"
