"""Each of SIGTERM, SIGINT, SIGUSR1 in every phase: a checkpoint within one step, the exit code, and an exact resume."""

from __future__ import annotations

import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
from sandbox import Sandbox, Zygote, differing, final

from napari_crln import events
from napari_crln.engine import checkpoint
from napari_crln.run.watch import send

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # under load
OPTIONS = ("--iterations", 12, "--set=engine.validate_every=2", "--set=engine.preview_share=0.5")
INTERRUPTED = 130
#: Failpoint of each phase of training.
PHASES = (
    "loop:restore", "loop:batch@2", "loop:step@2", "loop:optimised@2", "loop:validate", "loop:preview", "events:append@2",
    "checkpoint:begin", "checkpoint:file@3", "checkpoint:manifest", "checkpoint:rename", "checkpoint:prune",
)  # fmt: skip
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


@pytest.mark.parametrize("phase", PHASES)
def test_each_signal_in_any_phase_ends_in_a_checkpoint_within_one_step(
    sandbox: Sandbox, whole: checkpoint.Snapshot, phase: str
) -> None:
    """A run is interrupted by one signal after the other, and comes out as one that was not."""
    begin = partial(sandbox.train, *OPTIONS)
    for name in SIGNALS:
        noted = sandbox.root / "logs" / name
        ended = begin(failpoint=f"{phase}={name}", broken=("notes_signals", {"file": str(noted)})).wait()
        assert ended.code == INTERRUPTED, ended.err
        told = _ended(sandbox)
        assert told.reason == "interrupted"
        assert name in told.message
        begun = int(noted.read_text("utf-8"))
        assert told.step == begun + (phase == "loop:batch@2"), "the step that was under way is the last"
        assert final(sandbox.run).step == told.step
        begin = sandbox.resume
    _resumed_exactly(sandbox, whole)


def test_each_signal_while_volumes_are_read_ends_at_once(
    sandbox: Sandbox, whole: checkpoint.Snapshot
) -> None:
    """Nothing has been trained that could be saved; what was saved stays."""
    begin = partial(sandbox.train, *OPTIONS)
    for name in SIGNALS:
        ended = begin(failpoint=f"data:read@2={name}").wait()
        assert (ended.code, "Traceback" in ended.err) == (INTERRUPTED, False), ended.err
        assert not sandbox.run.events.exists() or sandbox.events() == []
        begin = sandbox.resume
    _resumed_exactly(sandbox, whole)


@pytest.fixture(scope="module")
def trained(zygote: Zygote, imported: Path, tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A project with a run and a prediction of one volume; not to be changed."""
    place = Sandbox.beside(tmp_path_factory.mktemp("trained"), imported, zygote)
    assert place.train("--iterations", 2).wait().code == 0
    assert place.start("predict", place.project, "--volume=case_6").wait().code == 0
    return place


#: Of a prediction: amid its windows, and as its result is about to take its place.
PREDICTING = {
    "windows": "napari_crln.engine.segment.most_probable",
    "writing": "napari_crln.durable.sync_tree",
}


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("phase", PREDICTING)
def test_each_signal_ends_a_prediction_and_changes_nothing(
    sandbox: Sandbox, trained: Sandbox, phase: str, name: str
) -> None:
    shutil.copytree(trained.project, sandbox.project, dirs_exist_ok=True)
    before = _files(sandbox.project)
    broken = "signals_in", {"function": PREDICTING[phase], "signal": name}
    predict = ("predict", sandbox.project, "--volume=case_5", "--volume=case_6")
    ended = sandbox.start(*predict, broken=broken).wait()
    assert (ended.code, "Traceback" in ended.err) == (INTERRUPTED, False), ended.err
    assert _files(sandbox.project) == before
    sandbox.check()
    assert sandbox.start(*predict).wait().code == 0


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
