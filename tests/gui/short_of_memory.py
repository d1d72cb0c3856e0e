"""The command line with an allocator that gives out at steps of more than so many voxels: `short_of_memory.py N ARGUMENTS`."""

from __future__ import annotations

import sys
from typing import Any

import torch

from napari_crln.cli import main
from napari_crln.engine import fitting, loop


def limit(voxels: int) -> None:
    genuine = loop.STEPS["crln"]

    def step(learner: Any, batch: Any, number: int, random: Any) -> Any:
        if batch.x_l.numel() + batch.x_u.numel() > voxels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return genuine(learner, batch, number, random)

    loop.STEPS["crln"] = fitting.STEPS["crln"] = step


limit(int(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
