"""A tiny run in a process of its own, to be killed: `tiny_run.py FOLDER [STEP]` hangs after reporting STEP.

Data and configuration are functions of nothing, so that the test can make the same ones.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from napari_crln import config, events
from napari_crln.engine.cohort import Case
from napari_crln.engine.data import TrainingData
from napari_crln.engine.loop import Trainer
from napari_crln.volume.intensity import measure

SETTINGS = config.build(
    {
        "iterations": 7,
        "network": {"base_filters": 2},
        "optimiser": {"learning_rate": 0.05},
        "batches": {"patch": [16, 16, 16]},
        "method": {
            "dim": {"prototypes": 2, "width": 4},
            "rectification": {"after": 2},
            "cps": {"anchors": 8, "negatives": 16, "valid_confidence": 0.4},
        },
        "engine": {"device": "cpu", "log_every": 1, "checkpoint_every": 3},
    }
)


def data() -> TrainingData:
    rng = np.random.default_rng(0)
    cases = []
    for name in "abcd":
        target = np.zeros((18, 20, 22), np.int16)
        target[4:11, 5:14, 6:12] = 1
        image = (rng.normal(40, 10, target.shape) + 60 * target).clip(0, 255).astype(np.uint8)
        cases.append(Case(name, image, measure(image, "percentile"), target))
    unlabelled = [Case(c.name, c.image, c.normalisation) for c in cases[2:]]
    return TrainingData(("background", "organ"), cases[:2], unlabelled)


def main(folder: Path, hang_at: int | None) -> None:
    for event in Trainer(data(), SETTINGS, folder):
        if isinstance(event, events.Stepped) and event.step == hang_at:
            print("here", flush=True)
            time.sleep(300)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
