"""kill -9 amid training, then resume: the same weights as a run that nothing broke, to the bit."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from napari_crln import events
from napari_crln.engine import checkpoint
from napari_crln.engine.loop import Trainer
from napari_crln.lock import holder

SCRIPT = Path(__file__).with_name("tiny_run.py")
SOURCE = Path(__file__).parents[2] / "src"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")]


@pytest.fixture(scope="module")
def tiny() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def killed_at(folder: Path, step: int) -> None:
    """Train in a child until it reports a step, then kill it as a power cut would."""
    threads = str(torch.get_num_threads())
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": threads}
    command = [sys.executable, str(SCRIPT), str(folder), str(step)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "here\n"
        finally:
            child.kill()
        assert child.wait(60) == -signal.SIGKILL


def final(folder: Path) -> checkpoint.Snapshot:
    found, skipped = checkpoint.latest(folder / events.CHECKPOINTS)
    assert found is not None
    assert skipped == []
    return found


def test_killed_and_resumed_equals_unbroken(tiny: ModuleType, tmp_path: Path) -> None:
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    broken.mkdir()
    unbroken.mkdir()
    killed_at(broken, step=5)
    assert final(broken).step == 3
    assert holder(broken) is not None, "the dead process's record is there, and must not keep us out"

    seen = list(Trainer(tiny.data(), tiny.SETTINGS, broken))
    assert isinstance(seen[0], events.Started)
    assert (seen[0].step, seen[0].resumed) == (3, True)
    list(Trainer(tiny.data(), tiny.SETTINGS, unbroken))

    mine, theirs = final(broken), final(unbroken)
    assert mine.step == theirs.step == 7
    assert mine.tensors.keys() == theirs.tensors.keys()
    differing = [
        f"{group}.{name}"
        for group, tensors in theirs.tensors.items()
        for name, tensor in tensors.items()
        if not torch.equal(mine.tensors[group][name], tensor)
    ]
    assert differing == []
    assert {"dim.prototypes", "head.project.weight"} <= set(theirs.tensors["teacher"])
