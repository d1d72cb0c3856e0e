from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_crln import durable
from napari_crln.config import Engine
from napari_crln.engine import capacity
from napari_crln.engine.capacity import free_bytes, plan_holding, resident_bytes
from napari_crln.engine.cohort import Cohort
from napari_crln.engine.data import TrainingData, read_case
from napari_crln.volume import memory
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.project import Project
from napari_crln.volume.streamed import StreamedArray

CPU = torch.device("cpu")
SHAPE = (16, 20, 24)
VOXELS = 16 * 20 * 24


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(durable, "sync", lambda path: None)
    made = Project.create(tmp_path / "p.crln", ClassTable.from_ids({"background": 0, "one": 1}))
    rng = np.random.default_rng(0)
    for name, dtype in (("a", "uint8"), ("b", "uint16"), ("c", "float64")):
        image = rng.integers(0, 99, SHAPE).astype(dtype)
        annotation = rng.integers(1, 3, SHAPE).astype(np.uint8) if name == "a" else None
        made.add(name, image, Grid(SHAPE, np.eye(4)), "labelled" if name == "a" else "unlabelled", annotation)
    return made


def test_what_a_volume_takes_is_what_a_cohort_holds(project: Project) -> None:
    for volume, expected in zip(project.volumes.values(), (1 + 2, 2, 4), strict=True):
        (held,) = Cohort([read_case(volume, volume.name == "a")], (8, 8, 8), CPU)._held
        tensors = [held.image, held.labels and held.labels.target]
        taken = sum(t.numel() * t.itemsize for t in tensors if isinstance(t, torch.Tensor))
        assert resident_bytes(volume) == taken == expected * VOXELS


@pytest.mark.parametrize(
    ("cohort", "free", "streamed", "warned"),
    [
        ("auto", 100 * VOXELS, False, False),
        ("auto", 15 * VOXELS, True, True),  # 9 bytes a voxel are more than half of it
        ("auto", None, False, False),
        ("resident", 15 * VOXELS, False, True),
        ("streamed", 100 * VOXELS, True, False),
    ],
)
def test_the_decision(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    cohort: str,
    free: int | None,
    streamed: bool,
    warned: bool,
) -> None:
    monkeypatch.setattr(capacity, "free_bytes", lambda device: free)
    settings = Engine(cohort=cohort)  # type: ignore[arg-type]
    holding = plan_holding(list(project.volumes.values()), settings, CPU)
    assert (holding.streamed, holding.needed) == (streamed, 9 * VOXELS)
    assert (holding.warning is not None) == warned
    data = TrainingData.of(project, settings)
    assert isinstance(data.labelled[0].image, StreamedArray) == streamed
    assert data.warnings == ((holding.warning,) if warned else ())


def test_the_warning_has_numbers(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "free_bytes", lambda device: 3 << 30)
    monkeypatch.setattr(capacity, "resident_bytes", lambda volume: 5 << 30)
    warning = plan_holding([project.volume("a")], Engine(), CPU).warning
    assert warning is not None
    assert "5.0 GiB" in warning
    assert "3.0 GiB" in warning


def test_free_memory_of_this_machine_is_plausible() -> None:
    free = free_bytes(CPU)
    assert free is None or 1 << 20 < free < 1 << 50


def test_a_job_s_limit_streams_what_the_machine_would_hold(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small container on a large machine."""
    root = tmp_path / "root"
    for name, text in (
        ("proc/meminfo", "MemAvailable: 1000000000 kB"),
        ("proc/self/cgroup", "0::/"),
        ("sys/fs/cgroup/memory.max", str(15 * VOXELS)),
        ("sys/fs/cgroup/memory.current", "0"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(capacity, "available", partial(memory.available, root=root))
    holding = plan_holding(list(project.volumes.values()), Engine(), CPU)
    assert (holding.streamed, holding.free) == (True, 15 * VOXELS)
