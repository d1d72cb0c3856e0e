from __future__ import annotations

import errno
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from napari_crln import durable
from napari_crln.engine import checkpoint
from napari_crln.engine.checkpoint import Snapshot, best, best_step, latest, load, save
from napari_crln.errors import CorruptCheckpoint, OutOfSpace, RunError, TrainingDiverged

BEFORE = ["begin", "file", "manifest", "fsync", "rename"]
AFTER = ["renamed", "best", "prune", "delete"]
RANDOM_KILLS = 6


def snapshot(step: int, **state: object) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    student = {"conv.weight": torch.randn(4, 3, 3, generator=generator), "steps": torch.tensor(step)}
    return Snapshot(step, {"student": student, "rng": {"torch": generator.get_state()}}, dict(state))


def same(a: Snapshot, b: Snapshot) -> bool:
    def items(s: Snapshot) -> list[tuple[str, str, torch.Tensor]]:
        return [(g, n, t) for g, group in sorted(s.tensors.items()) for n, t in sorted(group.items())]

    pairs = list(zip(items(a), items(b), strict=True))
    equal = all(x[:2] == y[:2] and x[2].dtype == y[2].dtype and torch.equal(x[2], y[2]) for x, y in pairs)
    return equal and a.step == b.step and a.state == b.state


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def flip(path: Path, position: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint folders whose writers were killed, one a stage."""
    root = tmp_path_factory.mktemp("killed")
    script = Path(__file__).with_name("checkpoint_killer.py")
    stages = [*BEFORE, *AFTER, "replace"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(root), str(RANDOM_KILLS), *stages]
    subprocess.run(command, check=True, env=environment, timeout=100)
    return root


def test_round_trip_keeps_every_bit_and_dtype(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(5).to(torch.bfloat16),
        "long": torch.tensor([2**62, -1]),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.empty(0, 7),
        "odd": torch.tensor([float("inf"), -0.0]),
    }
    state = {"mu": 0.1 + 0.2, "seed": 2**127 + 1, "nested": {"list": [1, None, "é"]}}
    given = Snapshot(7, {"optimiser": tensors, "none": {}}, state)
    assert same(load(save(tmp_path, given, keep=1)), given)


def test_views_and_shared_memory_come_back_as_values(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    student = {
        "base": base,
        "tied": base,
        "transposed": base.T,
        "part": base[1:3, ::2],
        "expanded": base[0].expand(3, 6),
        "parameter": torch.nn.Parameter(base * 2),
    }
    loaded = load(save(tmp_path, Snapshot(1, {"student": student}, {}), keep=1)).tensors["student"]
    for name, tensor in student.items():
        assert torch.equal(loaded[name], tensor.detach())
    loaded["tied"].zero_()
    assert torch.equal(loaded["base"], base)


@pytest.mark.parametrize("group", ["student", "teacher"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_and_nothing_is_written(
    tmp_path: Path, group: str, value: float
) -> None:
    bad = Snapshot(5, {group: {"ok": torch.ones(2), "head.bias": torch.tensor([0.0, value])}}, {})
    with pytest.raises(TrainingDiverged, match=r"head\.bias.*step 5"):
        save(tmp_path / "checkpoints", bad, keep=2)
    assert not (tmp_path / "checkpoints").exists()


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, snapshot(step), keep=2, best=step in (1, 2))
    assert names(tmp_path) == {"best.json", "step-00000002", "step-00000004", "step-00000005"}
    found = best(tmp_path)
    assert found is not None
    assert same(found, snapshot(2))
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 2}


def test_no_best_before_a_validation(tmp_path: Path) -> None:
    assert best(tmp_path) is None
    save(tmp_path, snapshot(1), keep=1)
    assert best(tmp_path) is None


def test_order_is_by_step_not_by_time_or_by_name(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000, 5):
        save(tmp_path, snapshot(step), keep=9)
    os.utime(tmp_path / "step-99999999", (2**31, 2**31))
    found, skipped = latest(tmp_path)
    assert found is not None
    assert found.step == 100_000_000
    assert skipped == []


def test_latest_of_nothing(tmp_path: Path) -> None:
    assert latest(tmp_path) == (None, [])
    assert latest(tmp_path / "missing") == (None, [])


def test_same_step_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, snapshot(3, round=1), keep=1)
    path = save(tmp_path, snapshot(3, round=2), keep=1)
    assert load(path).state == {"round": 2}
    assert names(tmp_path) == {"step-00000003"}


@pytest.mark.parametrize("stage", BEFORE)
def test_kill_before_the_rename_leaves_the_former_state(killed: Path, stage: str) -> None:
    found, skipped = latest(killed / stage)
    assert found is not None
    assert (found.step, found.state, skipped, best_step(killed / stage)) == (200, {"step": 200}, [], 100)
    assert any(name.startswith(".tmp-") for name in names(killed / stage)), "the kill came too early"


@pytest.mark.parametrize("stage", AFTER)
def test_kill_after_the_rename_leaves_the_new_state_and_knows_the_best(killed: Path, stage: str) -> None:
    found, skipped = latest(killed / stage)
    assert found is not None
    assert (found.step, found.state, skipped, best_step(killed / stage)) == (300, {"step": 300}, [], 300)


def test_kill_while_a_checkpoint_is_deleted_leaves_no_half_of_it_by_its_name(killed: Path) -> None:
    steps = {name for name in names(killed / "delete") if name.startswith("step-")}
    assert steps == {"step-00000200", "step-00000300"}


def test_kill_while_a_step_is_replaced_loses_neither_it_nor_the_rest(killed: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(killed / "replace", tmp_path / "copy")
    assert "step-00000200" not in names(folder), "the kill came too early"
    found, skipped = latest(folder)
    assert found is not None
    assert (found.step, skipped) == (200, [])
    save(folder, snapshot(201), keep=2)
    assert names(folder) == {"best.json", "step-00000100", "step-00000200", "step-00000201"}


@pytest.mark.parametrize("stage", [*BEFORE, *AFTER])
def test_the_next_save_sweeps_what_the_kill_left(killed: Path, tmp_path: Path, stage: str) -> None:
    folder = shutil.copytree(killed / stage, tmp_path / "copy")
    save(folder, snapshot(300), keep=1, best=True)
    assert names(folder) == {"best.json", "step-00000300"}


def test_kills_at_random_times_never_cost_the_last_checkpoint(killed: Path) -> None:
    for repeat in range(RANDOM_KILLS):
        folder = killed / f"random-{repeat}"
        found, skipped = latest(folder)
        assert skipped == []
        assert found is not None
        assert found.state == {"step": found.step}
        assert bool((found.tensors["student"]["w"] == found.step).all())
        marked = best_step(folder)
        assert marked is None or load(folder / checkpoint.step_name(marked)).step == marked
        assert found.step >= 2


@pytest.mark.parametrize("file", ["student.safetensors", "rng.safetensors", "state.json"])
def test_any_flipped_bit_is_found_and_the_file_is_named(tmp_path: Path, file: str) -> None:
    path = save(tmp_path, snapshot(1, note="x"), keep=1)
    pristine = (path / file).read_bytes()
    draw = random.Random(1)
    positions = {0, len(pristine) - 1, *(draw.randrange(len(pristine)) for _ in range(20))}
    for position in positions:
        flip(path / file, position, draw.randrange(8))
        with pytest.raises(CorruptCheckpoint, match=file):
            load(path)
        (path / file).write_bytes(pristine)
    load(path)


def test_a_flipped_bit_of_the_manifest_never_gives_another_snapshot(tmp_path: Path) -> None:
    path = save(tmp_path, snapshot(1), keep=1)
    manifest = path / "manifest.json"
    pristine, harmless = manifest.read_bytes(), 0
    for position in range(len(pristine)):
        flip(manifest, position, position % 8)
        try:
            assert same(load(path), snapshot(1))
            harmless += 1
        except CorruptCheckpoint:
            pass
        manifest.write_bytes(pristine)
    assert harmless < len(pristine) / 20  # white space at most


@pytest.mark.parametrize("cut", [0, 1, -1])
@pytest.mark.parametrize("file", ["student.safetensors", "state.json", "manifest.json"])
def test_truncation_falls_back_to_the_checkpoint_before(tmp_path: Path, file: str, cut: int) -> None:
    save(tmp_path, snapshot(1), keep=5)
    path = save(tmp_path, snapshot(2), keep=5)
    (path / file).write_bytes((path / file).read_bytes()[:cut])
    found, skipped = latest(tmp_path)
    assert found is not None
    assert same(found, snapshot(1))
    assert len(skipped) == 1
    assert file in skipped[0]


def test_missing_file_is_corrupt_and_missing_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path, snapshot(1), keep=1)
    (path / "rng.safetensors").unlink()
    with pytest.raises(CorruptCheckpoint, match=r"rng\.safetensors"):
        load(path)
    with pytest.raises(RunError, match="no checkpoint"):
        load(tmp_path / "step-00000009")


def test_a_renamed_checkpoint_does_not_pass_for_another_step(tmp_path: Path) -> None:
    save(tmp_path, snapshot(1), keep=1).rename(tmp_path / "step-00000900")
    found, skipped = latest(tmp_path)
    assert found is None
    assert "manifest.json" in skipped[0]


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["CRLN_TEST_BOMB"],)


def test_a_pickle_beside_the_files_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRLN_TEST_BOMB", str(tmp_path / "exploded"))
    path = save(tmp_path / "c", snapshot(1), keep=1)
    (path / "student.pt").write_bytes(pickle.dumps(_Bomb()))
    os.mkfifo(path / "teacher.safetensors")  # opening it would hang
    assert same(load(path), snapshot(1))
    (path / "student.safetensors").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(CorruptCheckpoint):
        load(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("file", ["student.safetensors", "state.json", "manifest.json"])
def test_links_are_refused_even_to_the_right_bytes(tmp_path: Path, file: str) -> None:
    path = save(tmp_path, snapshot(1), keep=1)
    (path / file).rename(tmp_path / file)
    (path / file).symlink_to(tmp_path / file)
    with pytest.raises(CorruptCheckpoint, match=file):
        load(path)


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = save(tmp_path, snapshot(1), keep=1)
    (path / "student.safetensors").unlink()
    os.mkfifo(path / "student.safetensors")
    with pytest.raises(CorruptCheckpoint, match=r"student\.safetensors.*not a regular file"):
        load(path)


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    real = save(tmp_path / "a", snapshot(1), keep=1)
    (tmp_path / "step-00000001").symlink_to(real)
    with pytest.raises(CorruptCheckpoint, match="link"):
        load(tmp_path / "step-00000001")


def test_a_manifest_cannot_reach_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    path = save(tmp_path, snapshot(1), keep=1)
    files = {"../secret.json": b"{}", "state.json": (path / "state.json").read_bytes()}
    record = checkpoint.manifest.make(files, schema_version=1, step=1, best=False)
    (path / "manifest.json").write_bytes(record)
    with pytest.raises(CorruptCheckpoint, match=r"manifest\.json"):
        load(path)


def test_a_newer_schema_is_refused_and_an_older_one_upgraded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, snapshot(1, a=1), keep=1)
    current = checkpoint.SCHEMA
    monkeypatch.setattr(checkpoint, "SCHEMA", current - 1)
    with pytest.raises(RunError, match=rf"schema {current}.*up to schema {current - 1}"):
        load(path)
    with pytest.raises(RunError, match="Update"):
        latest(tmp_path)

    def named(old: Snapshot) -> Snapshot:
        return Snapshot(old.step, old.tensors, {**old.state, "added": True})

    monkeypatch.setattr(checkpoint, "SCHEMA", current + 1)
    monkeypatch.setitem(checkpoint.UPGRADES, current, named)
    assert load(path).state == {"a": 1, "added": True}


def test_damaged_newer_checkpoints_do_not_push_out_good_ones(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        path = save(tmp_path, snapshot(step), keep=3)
    flip(path / "student.safetensors", 100)
    save(tmp_path, snapshot(2), keep=1)  # the run went on from step 1
    assert names(tmp_path) == {"step-00000002", "damaged-step-00000003"}
    save(tmp_path, snapshot(3), keep=1)
    assert names(tmp_path) == {"step-00000003", "damaged-step-00000003"}


def test_a_damaged_best_file_is_outvoted_by_the_manifests(tmp_path: Path) -> None:
    save(tmp_path, snapshot(1), keep=1, best=True)
    (tmp_path / "best.json").write_bytes(b"\0\0\0")
    save(tmp_path, snapshot(2), keep=1)
    assert best_step(tmp_path) == 1
    assert "step-00000001" in names(tmp_path)


def test_a_full_disk_changes_nothing_and_says_how_much_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, snapshot(1), keep=1)
    original, calls = durable.write_new, 0

    def full(path: Path, data: bytes) -> None:
        nonlocal calls
        calls += 1
        original(path, data[: len(data) // 2])
        if calls == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable, "write_new", full)
    with pytest.raises(OutOfSpace, match=r"\d+ bytes are needed and \d+ are free"):
        save(tmp_path, snapshot(2), keep=1)
    assert names(tmp_path) == {"step-00000001"}
    found, _ = latest(tmp_path)
    assert found is not None
    assert same(found, snapshot(1))


def test_a_checkpoint_that_cannot_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutOfSpace, match="10 are free"):
        save(tmp_path, snapshot(2), keep=1)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("group", ["../evil", "Student", ""])
def test_group_names_are_plain(tmp_path: Path, group: str) -> None:
    with pytest.raises(ValueError, match="group"):
        save(tmp_path, Snapshot(1, {group: {}}, {}), keep=1)
