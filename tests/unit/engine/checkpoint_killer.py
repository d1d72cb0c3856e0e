"""Run by test_checkpoint in a process of its own: forks children that die inside `save`.

Arguments: the folder to work in, then a kill stage each; then a number of random kills. One import of torch
serves all of them.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from napari_crln.engine import checkpoint
from napari_crln.engine.failpoint import VARIABLE


def snapshot(step: int) -> checkpoint.Snapshot:
    weights = {"w": torch.full((64, 64), float(step)), "b": torch.arange(3)}
    return checkpoint.Snapshot(step, {"student": weights, "optimiser": {"m": weights["w"]}}, {"step": step})


def killed_in(folder: Path, stage: str, step: int) -> int:
    """Signal that ended a child whose save of `step` meets the failpoint; 0 if none did."""
    child = os.fork()
    if child == 0:
        os.environ[VARIABLE] = f"checkpoint:{stage}"
        checkpoint.save(folder, snapshot(step), keep=2, best=step == 300)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def killed_at_random(folder: Path, draw: random.Random) -> None:
    child = os.fork()
    if child == 0:
        step = 0
        while True:
            step += 1
            checkpoint.save(folder, snapshot(step), keep=1, best=step % 3 == 0)
            checkpoint.save(folder, snapshot(step), keep=1)
    while max((int(path.name[5:]) for path in folder.glob("step-*")), default=0) < 2:
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def main() -> None:
    root, repeats, stages = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    for stage in stages:
        folder = root / stage
        checkpoint.save(folder, snapshot(100), keep=2, best=True)
        checkpoint.save(folder, snapshot(200), keep=2)
        step = 200 if stage == "replace" else 300
        assert killed_in(folder, stage, step) == signal.SIGKILL, stage
    draw = random.Random(0)
    for repeat in range(repeats):
        killed_at_random(root / f"random-{repeat}", draw)


main()
