"""SIGTERM, SIGINT and SIGUSR1 in every phase: a checkpoint within one step, the right exit code, and an exact resume."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from sandbox import Ended, Sandbox, Zygote, differing, final

from napari_crln import events
from napari_crln.engine import checkpoint
from napari_crln.run.watch import send

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # under load
OPTIONS = ("--iterations", 5, "--set=engine.validate_every=2", "--set=engine.preview_share=0.5")
INTERRUPTED = 130
#: Failpoint of each phase, and the most steps that may be done when the run has ended.
PHASES = {
    "loop:restore": 0,
    "loop:step@3": 3,
    "loop:optimised@3": 3,
    "loop:validate": 2,
    "checkpoint:begin": 2,
    "checkpoint:file@3": 2,
    "checkpoint:rename": 2,
    "checkpoint:prune": 2,
    "events:append@3": 3,
    "loop:preview": 5,
}
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")


@pytest.fixture(scope="module")
def whole(zygote: Zygote, imported: Path, tmp_path_factory: pytest.TempPathFactory) -> checkpoint.Snapshot:
    place = Sandbox.beside(tmp_path_factory.mktemp("whole"), imported, zygote)
    assert place.train(*OPTIONS).wait().code == 0
    return final(place.run)


def _ended(sandbox: Sandbox) -> events.Ended:
    last = sandbox.events()[-1]
    assert isinstance(last, events.Ended)
    return last


def _resumed_exactly(sandbox: Sandbox, whole: checkpoint.Snapshot) -> None:
    ended = sandbox.resume().wait()
    assert ended.code == 0, ended.err
    assert differing(final(sandbox.run), whole) == []
    sandbox.check()


@pytest.mark.parametrize("index", range(len(PHASES)), ids=list(PHASES))
def test_a_signal_in_any_phase_ends_in_a_checkpoint_within_one_step(
    sandbox: Sandbox, whole: checkpoint.Snapshot, index: int
) -> None:
    """Every phase meets a signal, and every signal several phases."""
    phase, steps = list(PHASES.items())[index]
    name = SIGNALS[index % len(SIGNALS)]
    ended = sandbox.train(*OPTIONS, failpoint=f"{phase}={name}").wait()
    assert ended.code == INTERRUPTED, ended.err
    told = _ended(sandbox)
    assert told.reason == "interrupted"
    assert name in told.message
    assert told.step <= steps
    assert final(sandbox.run).step == told.step
    _resumed_exactly(sandbox, whole)


@pytest.mark.parametrize("name", SIGNALS)
def test_each_signal_ends_a_paused_run(sandbox: Sandbox, name: str) -> None:
    process = sandbox.train("--iterations", 5000, *OPTIONS[2:])
    sandbox.watch(process, lambda event: isinstance(event, events.Stepped))
    send(sandbox.run.path, events.Pause())
    paused = sandbox.watch(process, lambda event: isinstance(event, events.Paused))
    process.send(signal.Signals[name])
    ended = process.wait(10)
    assert ended.code == INTERRUPTED, ended.err
    assert (_ended(sandbox).reason, _ended(sandbox).step) == ("interrupted", paused.step)
    assert final(sandbox.run).step == paused.step
    sandbox.check()


@pytest.mark.parametrize("phase", ["loop:step@3", "loop:validate", "checkpoint:file@9", "loop:optimised@3"])
def test_a_second_ctrl_c_ends_at_once_and_the_last_checkpoint_stands(
    sandbox: Sandbox, whole: checkpoint.Snapshot, phase: str
) -> None:
    """Twice at the same place: the second one does not wait for the end of the step."""
    ended = sandbox.train(*OPTIONS, failpoint=f"{phase}=SIGINT,{phase}=SIGINT").wait()
    assert ended.code == INTERRUPTED, ended.err
    assert "Traceback" not in ended.err
    assert _ended(sandbox).reason == "interrupted"
    saved = [e.step for e in sandbox.events() if isinstance(e, events.Checkpointed)]
    found, skipped = checkpoint.latest(sandbox.run.checkpoints)
    assert skipped == []
    assert (found.step if found else None) == (max(saved) if saved else None)
    _resumed_exactly(sandbox, whole)


def test_a_signal_before_training_starts_leaves_nothing_half_made(sandbox: Sandbox) -> None:
    process = sandbox.train(*OPTIONS)
    process.send(signal.SIGTERM)
    assert process.wait().code in (-signal.SIGTERM, INTERRUPTED)
    resumed: Ended = sandbox.train(*OPTIONS, "--iterations", 1).wait()
    assert resumed.code == 0
    sandbox.check()
