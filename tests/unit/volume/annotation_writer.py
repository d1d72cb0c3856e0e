"""A process that writes an annotation, for test_annotation.py: `annotation_writer.py PROJECT VOLUME hold|die N|paint`."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from napari_crln.volume.editing import holding
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume

START, SIZE = (10, 20, 30), (60, 70, 120)


def paint(volume: Volume, value: int) -> None:
    volume.write_annotation_region(START, np.full(SIZE, value, np.uint8))


def die_at_rename(number: int) -> None:
    """Kill this process at its rename of that number, counted from 0, or at the end if there are fewer."""
    count, replace = itertools.count(), Path.replace

    def dying(self: Path, target: Path) -> Path:
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = dying  # type: ignore[method-assign, assignment]


def main(project: str, name: str, what: str, *more: str) -> None:
    volume = Project.open(project).volumes[name]
    if what == "hold":
        with holding(volume.path):
            print("ready", flush=True)
            time.sleep(60)
    print("ready", flush=True)
    if what == "die":
        die_at_rename(int(more[0]))
        paint(volume, 2)
        os.kill(os.getpid(), signal.SIGKILL)
    for value in itertools.cycle((1, 2, 3)):
        paint(volume, value)


main(*sys.argv[1:])
