"""The event that a run begins with."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from napari_crln import config, events
from napari_crln.engine.data import TrainingData
from napari_crln.engine.state import TrainingState


def started(
    state: TrainingState,
    settings: config.RunConfig,
    data: TrainingData,
    differences: Sequence[events.Difference],
    *,
    resumed: bool,
) -> events.Started:
    """What trains on what, in which process."""
    return events.Started(
        step=state.step,
        method=settings.method.name,
        iterations=settings.iterations,
        pid=os.getpid(),
        host=socket.gethostname(),
        resumed=resumed,
        labelled=len(data.labelled),
        unlabelled=len(data.unlabelled),
        parameters=sum(p.numel() for p in state.learner.student.parameters()),
        differences=tuple(differences),
        prototypes=settings.method.dim.prototypes if settings.method.uses_clues else 0,
    )
