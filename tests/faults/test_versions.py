"""A run gone on with by another configuration, torch or Python: shown as a difference, free, with a warning, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sandbox import Sandbox, final

from napari_crln import events
from napari_crln.events import CONFIG_FILE, Difference

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # under load


@pytest.fixture
def trained(sandbox: Sandbox) -> Sandbox:
    """A run of 2 iterations, of its own accord: no option of `resume` is needed to go on with it."""
    assert sandbox.train("--iterations", 9, failpoint="loop:step@3=SIGTERM").wait().code == 130
    return sandbox


def _edit(run: Path, old: str, new: str) -> None:
    """Change `config.toml` as a person would, past all checks of options."""
    text = (run / CONFIG_FILE).read_text("utf-8")
    assert text.count(old) == 1
    (run / CONFIG_FILE).write_text(text.replace(old, new), "utf-8")


def _started(sandbox: Sandbox) -> events.Started:
    return [e for e in sandbox.events() if isinstance(e, events.Started)][-1]


def test_what_is_free_is_shown_and_warns_of_nothing(trained: Sandbox) -> None:
    ended = trained.resume("--set", "engine.log_every=2").wait()
    assert ended.code == 0, ended.err
    assert "engine.log_every changes from 1 to 2, which changes nothing learned" in ended.err
    assert _started(trained).differences == (
        Difference(field="engine.log_every", before="1", after="2", rule="free"),
    )
    assert not [e for e in trained.events() if isinstance(e, events.Warned)]
    trained.check()


@pytest.mark.parametrize("by_hand", [True, False])
def test_what_may_matter_is_warned_of_by_option_or_by_hand(trained: Sandbox, by_hand: bool) -> None:
    options = ()
    if by_hand:
        _edit(trained.run.path, "learning_rate = 0.01", "learning_rate = 0.02")
    else:
        options = ("--set", "optimiser.learning_rate=0.02")
    ended = trained.resume(*options).wait()
    assert ended.code == 0, ended.err
    told = "optimiser.learning_rate changes from 0.01 to 0.02"
    assert ended.err.count(told) == 1
    assert [e.message.startswith(told) for e in trained.events() if isinstance(e, events.Warned)] == [True]
    (difference,) = _started(trained).differences
    assert (difference.field, difference.rule) == ("optimiser.learning_rate", "warn")
    trained.check()


@pytest.mark.parametrize(
    ("old", "new"),
    [("seed = 0", "seed = 1"), ("base_filters = 2", "base_filters = 4"), ("decay = 0.5", "decay = 2.0")],
)
def test_what_would_lie_is_refused_also_by_hand_and_nothing_moves(
    trained: Sandbox, old: str, new: str
) -> None:
    _edit(trained.run.path, old, new)
    before = final(trained.run).step
    ended = trained.resume().wait()
    assert ended.code == 2, ended.err
    field = old.split(maxsplit=1)[0]
    assert field in ended.last_words
    assert new.rsplit(maxsplit=1)[-1] in ended.last_words
    assert final(trained.run).step == before

    _edit(trained.run.path, new, old)
    ended = trained.resume().wait()
    assert ended.code == 0, ended.err
    assert final(trained.run).step == 9
    trained.check()


def test_another_torch_and_python_are_shown_and_warned_of(trained: Sandbox) -> None:
    ended = trained.resume(broken=("versions", {"torch": "9.9.0", "python": "3.99.1"})).wait()
    assert ended.code == 0, ended.err
    found = {d.field: (d.after, d.rule) for d in _started(trained).differences}
    assert found == {"torch": ("9.9.0", "warn"), "python": ("3.99.1", "warn")}
    warned = [e.message for e in trained.events() if isinstance(e, events.Warned)]
    assert sorted(message.split()[0] for message in warned) == ["python", "torch"]
    state = json.loads((trained.run.checkpoints / "step-00000009" / "state.json").read_text("utf-8"))
    assert state["made_with"]["torch"] == "9.9.0"
    trained.check()


def test_a_checkpoint_of_a_newer_version_is_refused_and_kept(trained: Sandbox) -> None:
    from napari_crln.engine import checkpoint, manifest

    newest = checkpoint.latest(trained.run.checkpoints)[0]
    assert newest is not None
    path = trained.run.checkpoints / checkpoint.step_name(newest.step)
    record, files = manifest.read(path)
    made = manifest.make(files, schema_version=checkpoint.SCHEMA + 1, step=record["step"], best=False)
    (path / manifest.MANIFEST_FILE).write_bytes(made)
    ended = trained.resume().wait()
    assert ended.code == 5
    assert f"schema {checkpoint.SCHEMA + 1}" in ended.last_words
    assert "Update napari-crln" in ended.last_words
    assert (path / manifest.MANIFEST_FILE).read_bytes() == made
    trained.check()
