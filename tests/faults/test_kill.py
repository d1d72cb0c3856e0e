"""kill -9 at any moment: the newest whole checkpoint loads, leftovers are swept, and resume is exact to the bit."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sandbox import Sandbox, Zygote, differing, final

from napari_crln import events
from napari_crln.engine import checkpoint
from napari_crln.run.watch import send
from napari_crln.volume.annotate import save_region
from napari_crln.volume.project import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
KILLS = 20
#: A checkpoint's stages, with the visit of each at which to die: the second checkpoint of the run, or later.
STAGES = {
    "begin": 2, "file": 7, "manifest": 2, "fsync": 2, "rename": 2, "renamed": 2, "best": 1, "prune": 2, "delete": 1
}  # fmt: skip
LONG = ("--iterations", 24, "--set=engine.preview_share=0.3", "--set=engine.validate_every=7")
SHORT = ("--iterations", 5, "--set=engine.keep=1", "--set=engine.validate_every=2")

Unbroken = Callable[..., checkpoint.Snapshot]


@pytest.fixture
def unbroken(zygote: Zygote, imported: Path, tmp_path: Path) -> Unbroken:
    """The last checkpoint of a run that nothing breaks."""

    def run(*options: object, method: str) -> checkpoint.Snapshot:
        place = Sandbox.beside(tmp_path, imported, zygote)
        assert place.train(*options, method=method).wait().code == 0
        return final(place.run)

    return run


def _kill_sometime(sandbox: Sandbox, draw: random.Random) -> int:
    """Resume, and kill within its first moments or after some of its events; the exit code."""
    wanted = sandbox.told() + draw.randrange(4)
    process = sandbox.resume()
    while sandbox.told() < wanted and process.poll() is None:
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.2))
    return process.kill().code if process.poll() is None else process.wait().code


def test_twenty_kills_at_random_moments_cost_nothing(sandbox: Sandbox, unbroken: Unbroken) -> None:
    draw, killed, step = random.Random(6), 0, 0
    process = sandbox.train(*LONG, method="crln")
    sandbox.watch(process, lambda event: isinstance(event, events.Checkpointed))
    process.kill()
    for _ in range(KILLS - 1):
        killed += _kill_sometime(sandbox, draw) == -signal.SIGKILL
        assert sandbox.run.status().state == "lost"
        assert final(sandbox.run).step >= step
        step = final(sandbox.run).step
    assert killed == KILLS - 1, "the run was over before it had been killed as often as meant"
    ended = sandbox.resume().wait()
    assert ended.code == 0, ended.err
    assert differing(final(sandbox.run), unbroken(*LONG, method="crln")) == []
    sandbox.check()


@pytest.fixture(scope="module")
def whole(zygote: Zygote, imported: Path, tmp_path_factory: pytest.TempPathFactory) -> checkpoint.Snapshot:
    place = Sandbox.beside(tmp_path_factory.mktemp("whole"), imported, zygote)
    assert place.train(*SHORT).wait().code == 0
    return final(place.run)


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_each_stage_of_a_checkpoint(
    sandbox: Sandbox, whole: checkpoint.Snapshot, stage: str
) -> None:
    ended = sandbox.train(*SHORT, failpoint=f"checkpoint:{stage}@{STAGES[stage]}").wait()
    assert ended.code == -signal.SIGKILL
    at = final(sandbox.run).step
    assert at == (4 if stage in ("renamed", "prune", "delete") else 2), "the newest whole one loads"
    ended = sandbox.resume().wait()
    assert ended.code == 0, ended.err
    started = [e for e in sandbox.events() if isinstance(e, events.Started)][-1]
    assert (started.step, started.resumed) == (at, True)
    assert differing(final(sandbox.run), whole) == []
    sandbox.check()


def test_killed_while_somebody_paints_a_resumed_run_has_every_stroke(sandbox: Sandbox) -> None:
    """Painting is the project's, not the run's: a stroke nobody answered for, and one after the kill, are taken up."""
    process = sandbox.train("--iterations", 100_000)
    sandbox.watch(process, lambda event: isinstance(event, events.Checkpointed))
    volume = next(v for v in Project.open(sandbox.project).volumes.values() if v.role == "unlabelled")
    stroke = np.full((1, 4, 4), 2, volume.classes.index_dtype)
    first = save_region(sandbox.project, volume.name, (3, 2, 2), stroke).revision
    send(sandbox.run.path, events.LabelsChanged(volume=volume.name, revision=first))
    process.kill()
    second = save_region(sandbox.project, volume.name, (5, 2, 2), stroke).revision
    process = sandbox.resume()
    started = sandbox.watch(process, lambda e: isinstance(e, events.Started) and e.resumed)
    assert isinstance(started, events.Started)
    assert started.labelled == 3
    taken = sandbox.watch(process, lambda e: isinstance(e, events.LabelsTaken) and e.revision == second)
    assert taken.step - started.step <= 10
    send(sandbox.run.path, events.Stop())
    assert process.wait().code == 0
    kept = Project.open(sandbox.project).volumes[volume.name].read_annotation()
    assert (kept[[3, 5], 2:6, 2:6] == 2).all()
    assert np.count_nonzero(kept) == 32
    sandbox.check()
