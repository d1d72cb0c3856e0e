"""Streamed cohorts give what resident ones give, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_crln import durable, events
from napari_crln.config import RunConfig
from napari_crln.engine.cohort import Cohort
from napari_crln.engine.data import Batches, TrainingData, read_case
from napari_crln.engine.loop import Trainer
from napari_crln.engine.streaming import StreamedTensor
from napari_crln.errors import CorruptData
from napari_crln.method.learner import Randomness
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.project import Project
from napari_crln.volume.streamed import ChunkCache

CPU = torch.device("cpu")
PATCH = (16, 24, 32)
DTYPES = ("uint8", "uint16", "int16", "int32", "float32", "float64")
Settings = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "sync", lambda path: None)


def annotation(shape: tuple[int, int, int], sparse: bool) -> NDArray[np.uint8]:
    """Background with two boxes of classes; of a sparse one a few planes alone."""
    values = np.ones(shape, np.uint8)
    values[5:9, 3:12, 4:20] = 2
    values[8:14, 8:16, 10:30] = 3
    if sparse:
        values[:6] = values[9:] = 0
    return values


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Labelled: one volume of several chunks, one sparse, one too small; unlabelled: one a dtype, one too small."""
    table = ClassTable.from_ids({"background": 0, "one": 1, "two": 2})
    made = Project.create(tmp_path_factory.mktemp("p") / "p.crln", table)
    rng = np.random.default_rng(1)

    def add(name: str, shape: tuple[int, int, int], dtype: str, role: Any, sparse: bool | None) -> None:
        image = rng.integers(0, 120, shape).astype(dtype)
        label = None if sparse is None else annotation(shape, sparse)
        coverage = "sparse" if sparse else "dense"
        made.add(name, image, Grid(shape, np.eye(4)), role, label, coverage=coverage)  # type: ignore[arg-type]

    add("dense", (66, 30, 70), "uint8", "labelled", False)
    add("sparse", (20, 40, 66), "uint16", "labelled", True)
    add("small", (15, 20, 31), "int16", "labelled", False)
    for dtype in DTYPES:
        add(f"u-{dtype}", (20, 66, 40), dtype, "unlabelled", None)
    add("u-small", (9, 70, 20), "uint8", "unlabelled", None)
    add("valid", (18, 26, 34), "uint8", "validation", False)
    return made


def cohorts(project: Project, role: Any, foreground: float = 0.0) -> tuple[Cohort, Cohort]:
    """The volumes of a role, resident and streamed."""
    labelled = role == "labelled"
    resident = [read_case(v, labelled) for v in project.with_role(role)]
    streamed = [read_case(v, labelled, ChunkCache(64)) for v in project.with_role(role)]
    return Cohort(resident, PATCH, CPU, foreground), Cohort(streamed, PATCH, CPU, foreground)


@pytest.mark.parametrize("fetched", [True, False])
@pytest.mark.parametrize(("role", "foreground"), [("labelled", 0.0), ("labelled", 0.6), ("unlabelled", 0.0)])
def test_draws_and_patches_are_those_of_a_resident_cohort(
    project: Project, role: str, foreground: float, fetched: bool
) -> None:
    resident, streamed = cohorts(project, role, foreground)
    assert streamed.is_streamed
    assert not resident.is_streamed
    draws = resident.draw(np.random.default_rng(3), 60)
    assert streamed.draw(np.random.default_rng(3), 60) == draws
    assert {index for index, _ in draws} == set(range(len(resident)))
    if fetched:
        streamed.fetch(draws)
    assert torch.equal(streamed.images(draws), resident.images(draws))
    assert torch.equal(streamed.validity(draws), resident.validity(draws))
    if role == "labelled":
        assert torch.equal(streamed.targets(draws), resident.targets(draws))
        assert (streamed.targets(draws) > 0).any()


def test_a_fetched_patch_is_not_read_again_and_is_let_go(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, streamed = cohorts(project, "unlabelled")
    draws = streamed.draw(np.random.default_rng(0), 4)
    streamed.fetch(draws)
    reads: list[object] = []
    read = StreamedTensor._read
    monkeypatch.setattr(
        StreamedTensor, "_read", lambda self, window: reads.append(window) or read(self, window)
    )
    first = streamed.images(draws)
    assert not reads
    assert torch.equal(streamed.images(draws), first)
    assert len(reads) == 4


def stepped(project: Project, settings: RunConfig, folder: Path) -> tuple[list[dict[str, float]], list[str]]:
    """Losses of a run, and its warnings."""
    folder.mkdir()
    seen = list(Trainer.of(project, settings, folder))
    warned = [e.message for e in seen if isinstance(e, events.Warned)]
    return [e.losses for e in seen if isinstance(e, events.Stepped)], warned


@pytest.mark.slow
def test_a_streamed_run_is_a_resident_run(project: Project, settings: Settings, tmp_path: Path) -> None:
    """With validation and previews; the numbers are the same to the last bit."""
    sizes = {"patch": [16, 16, 32], "foreground": 0.5}
    runs = {
        how: stepped(
            project,
            settings(
                "crln", batches=sizes, engine={"cohort": how, "validate_every": 3, "preview_share": 0.5}
            ),
            tmp_path / how,
        )
        for how in ("resident", "streamed")
    }
    assert runs["resident"] == runs["streamed"]
    assert len(runs["resident"][0]) == 6
    assert runs["resident"][1] == []


def test_batches_of_steps_out_of_order_are_the_same(project: Project, settings: Settings) -> None:
    """As when a run is resumed."""
    made = settings(engine={"cohort": "streamed"})
    data = TrainingData.of(project, made.engine)
    ahead, resident = Batches(data, made, CPU), Batches(TrainingData.of(project), made, CPU)
    for step in (0, 1, 2, 40, 41, 3):
        pairs = zip(ahead.at(Randomness(0, step)), resident.at(Randomness(0, step)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_labels_that_change_count_from_the_next_step_on(project: Project, settings: Settings) -> None:
    """What was drawn ahead from the old labels is forgotten; a volume that was unlabelled moves."""
    made = settings(engine={"cohort": "streamed", "read_ahead": 4}, batches={"foreground": 0.5})
    streamed = Batches(TrainingData.of(project, made.engine), made, CPU)
    resident = Batches(TrainingData.of(project), made, CPU)
    changes = {4: ("dense", (66, 30, 70)), 7: ("u-uint8", (20, 66, 40)), 9: ("sparse", None)}
    seen = []
    for step in range(12):
        if step in changes:
            name, shape = changes[step]
            for batches in (streamed, resident):
                if shape is None:
                    batches.unlabel(name)
                else:
                    target = np.full(shape, -1, np.int16)
                    target[2:4] = 1
                    batches.relabel(batches.labelled.prepare(name, target))
        pair = streamed.at(Randomness(0, step)), resident.at(Randomness(0, step))
        assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True)), step
        seen.append(pair[0].y_l)
    unchanged = Batches(TrainingData.of(project), made, CPU)
    assert not all(torch.equal(unchanged.at(Randomness(0, s)).y_l, y) for s, y in enumerate(seen))


def test_damage_is_told_by_the_step_that_meets_it(project: Project, settings: Settings) -> None:
    made = settings(engine={"cohort": "streamed"})
    data = TrainingData.of(project, made.engine)

    class Damaged:
        shape, dtype = data.unlabelled[0].image.shape, data.unlabelled[0].image.dtype

        def __getitem__(self, key: object) -> NDArray[Any]:
            raise CorruptData("chunk 0", "stored bytes never change", "Restore it", "u")

    case = data.unlabelled[0]
    batches = Batches(replace(data, unlabelled=[case]), made, CPU)
    batches.unlabelled._held[0].image._array = Damaged()  # type: ignore[union-attr, assignment]
    with pytest.raises(CorruptData, match="chunk 0"):
        batches.at(Randomness(0, 0))
