"""Checkpoints with flipped bits or cut short: never loaded, the file named, the one before used."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from sandbox import Sandbox, Zygote, differing, final

from napari_crln import events
from napari_crln.engine import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # under load
FLIPS = 300
OPTIONS = ("--iterations", 4, "--set=engine.keep=2")


@pytest.fixture(scope="module")
def trained(zygote: Zygote, imported: Path, tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A run with checkpoints of steps 2 and 4; not to be changed."""
    place = Sandbox.beside(tmp_path_factory.mktemp("trained"), imported, zygote)
    assert place.train(*OPTIONS, method="crln").wait().code == 0
    return place


@pytest.fixture
def copied(trained: Sandbox, sandbox: Sandbox) -> Sandbox:
    shutil.copytree(trained.project / "runs", sandbox.project / "runs", dirs_exist_ok=True)
    return sandbox


def _flip(path: Path, position: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (old,) = file.read(1)
        file.seek(position)
        file.write(bytes([old ^ 1 << bit]))


def test_three_hundred_flipped_bits_are_each_found_and_the_checkpoint_before_is_taken(
    copied: Sandbox,
) -> None:
    """In files drawn evenly, so that the small ones have their share; then the checkpoint is as before."""
    folder, draw = copied.run.checkpoints, random.Random(3)
    before, newest = checkpoint.load(folder / "step-00000002"), folder / "step-00000004"
    files = sorted(newest.iterdir())
    for _ in range(FLIPS):
        path = draw.choice(files)
        place = draw.randrange(path.stat().st_size), draw.randrange(8)
        pristine = path.read_bytes()
        _flip(path, *place)
        found, skipped = checkpoint.latest(folder)
        if path.name == "manifest.json" and found is not None and found.step == 4:
            assert not skipped, "white space, or a hexadecimal digit's case, is all that may pass"
            assert differing(found, checkpoint.load(newest)) == []
        else:
            assert found is not None
            assert found.step == before.step
            assert len(skipped) == 1
            assert path.name in skipped[0]
            assert "SHA-256" in skipped[0] or path.name == "manifest.json"
        _flip(path, *place)
        assert path.read_bytes() == pristine
    assert final(copied.run).step == 4
    copied.check()


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_checkpoint_cut_short_is_named_set_aside_and_made_again(
    copied: Sandbox, trained: Sandbox, kept: float
) -> None:
    path = copied.run.checkpoints / "step-00000004" / "teacher.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    (entry,) = [c for c in copied.inspect()["checkpoints"] if not c["sound"]]
    assert entry["name"] == "step-00000004"
    assert f"instead of {len(data)}" in entry["fault"]

    ended = copied.resume("--run", copied.run.name).wait()
    assert ended.code == 0, ended.err
    assert "teacher.safetensors" in ended.err
    warned = [e.message for e in copied.events() if isinstance(e, events.Warned)]
    assert any("teacher.safetensors" in message and "skipped" in message for message in warned)
    assert differing(final(copied.run), final(trained.run)) == []
    copied.check()


def test_a_flipped_bit_in_a_run_is_said_and_the_run_goes_on_from_before(
    copied: Sandbox, trained: Sandbox
) -> None:
    path = copied.run.checkpoints / "step-00000004" / "student.safetensors"
    _flip(path, path.stat().st_size // 2, 3)
    ended = copied.resume("--run", copied.run.name).wait()
    assert ended.code == 0, ended.err
    assert "SHA-256 differs" in ended.err
    started = [e for e in copied.events() if isinstance(e, events.Started)][-1]
    assert started.step == 2
    assert differing(final(copied.run), final(trained.run)) == []
    copied.check()


def test_where_no_checkpoint_is_sound_nothing_starts_over(copied: Sandbox) -> None:
    for path in copied.run.checkpoints.glob("step-*"):
        _flip(path / "optimiser.safetensors", 100, 0)
    ended = copied.resume("--run", copied.run.name).wait()
    assert ended.code == 5
    assert "none of 2 checkpoints is sound" in ended.last_words
    assert "optimiser.safetensors" in ended.last_words
    assert sorted(p.name for p in copied.run.checkpoints.iterdir()) == ["step-00000002", "step-00000004"]
    copied.check(sound=False)
