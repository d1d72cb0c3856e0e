"""Labels that change while a run trains, from the command to the batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_crln import durable, events
from napari_crln.config import RunConfig
from napari_crln.engine import labels_intake
from napari_crln.engine.data import Batches, TrainingData
from napari_crln.engine.labels_intake import LabelsIntake
from napari_crln.engine.loop import Trainer
from napari_crln.method.learner import Randomness
from napari_crln.run.watch import send
from napari_crln.types import IGNORE, Role
from napari_crln.volume import stored
from napari_crln.volume.annotate import save_region
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.project import Project

Settings = Callable[..., RunConfig]
SHAPE = (20, 18, 24)
ROLES: dict[str, Role] = {"a": "labelled", "b": "labelled", "u": "unlabelled", "w": "unlabelled",
                          "v": "validation", "t": "test"}  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "sync", lambda path: None)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.create(tmp_path / "p.crln", ClassTable.from_ids({"background": 0, "one": 1, "two": 2}))
    for name, role in ROLES.items():
        rng = np.random.default_rng(ord(name))
        annotation = np.ones(SHAPE, np.uint8)
        annotation[4:9, 4:9, 4:9], annotation[12:16, 9:14, 8:18] = 2, 3
        image = (rng.normal(40, 10, SHAPE) + 30.0 * annotation).clip(0, 255).astype(np.uint8)
        label = None if role == "unlabelled" else annotation
        project.add(name, image, Grid.from_spacing(SHAPE), role, label)
    return Project.open(project.path)


@pytest.fixture
def folder(project: Project) -> Path:
    (project.path / "runs" / "r").mkdir()
    return project.path / "runs" / "r"


@pytest.fixture
def make(project: Project, settings: Settings, folder: Path) -> Callable[..., Trainer]:
    """`make(iterations)`: a trainer of the tiny run on the project."""

    def build(iterations: int = 12, method: str = "supervised", **engine: Any) -> Trainer:
        plain = {"device": "cpu", "log_every": 1, "checkpoint_every": 1000, "preview_share": 0.0}
        return Trainer.of(
            Project.open(project.path), settings(method, engine=plain | engine, iterations=iterations), folder
        )

    return build


def paint(project: Project, name: str, plane: int, value: int) -> int:
    return save_region(project.path, name, (plane, 0, 0), np.full((1, *SHAPE[1:]), value, np.uint8)).revision


def changed(folder: Path, name: str, revision: int) -> None:
    send(folder, events.LabelsChanged(volume=name, revision=revision))


def targets_of(trainer: Trainer, name: str) -> Any:
    """What training has as the targets of a labelled volume."""
    cohort = trainer._batches.labelled
    held = cohort._held[cohort.names.index(name)]
    assert held.labels is not None
    return held.labels.target[held.inside].numpy()


def taken(seen: list[events.Event]) -> list[tuple[str, int, str]]:
    return [(e.volume, e.revision, e.role) for e in seen if isinstance(e, events.LabelsTaken)]


def of_project(project: Project, name: str) -> Any:
    return Project.open(project.path).volumes[name].read_targets()


# --- the command


def test_a_stroke_is_taken_within_ten_iterations(
    make: Callable[..., Trainer], project: Project, folder: Path
) -> None:
    trainer = make(18)
    seen, painted = [], -1
    for event in trainer:
        seen.append(event)
        if isinstance(event, events.Stepped) and event.step == 3:
            changed(folder, "a", paint(project, "a", 7, 3))
            painted = event.step
    steps = [e.step for e in seen if isinstance(e, events.LabelsTaken)]
    assert taken(seen) == [("a", 2, "labelled")]
    assert painted <= steps[0] <= painted + 10
    np.testing.assert_array_equal(targets_of(trainer, "a"), of_project(project, "a"))
    assert (targets_of(trainer, "a")[7] == 2).all()


def test_the_loop_waits_no_longer_than_it_must_nor_shorter(
    make: Callable[..., Trainer], project: Project, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that takes longer than many steps: steps go on meanwhile, and the tenth has the labels."""
    trainer = make(18)
    read, gate = stored.Volume.read_annotated, threading.Event()

    def slowly(self: Any, box: Any = None) -> Any:
        gate.wait(5)
        return read(self, box)

    painted = at = -1
    for event in trainer:
        if isinstance(event, events.Stepped) and event.step == 3:
            revision = paint(project, "a", 7, 3)
            monkeypatch.setattr(stored.Volume, "read_annotated", slowly)
            changed(folder, "a", revision)
            painted = event.step
        if isinstance(event, events.Stepped) and painted > 0 and event.step == painted + 8:
            threading.Timer(0.3, gate.set).start()
        if isinstance(event, events.LabelsTaken):
            at = event.step
    assert painted + 8 <= at <= painted + 10


def test_two_quick_strokes_are_both_taken(
    make: Callable[..., Trainer], project: Project, folder: Path
) -> None:
    trainer, seen = make(18), []
    for event in trainer:
        seen.append(event)
        if isinstance(event, events.Stepped) and event.step in (3, 4):
            changed(folder, "a", paint(project, "a", event.step, 3))
    assert taken(seen)[-1] == ("a", 3, "labelled")
    assert (targets_of(trainer, "a")[3:5] == 2).all()


def test_undoing_a_stroke_that_was_taken_is_taken_too(
    make: Callable[..., Trainer], project: Project, folder: Path
) -> None:
    before, trainer, seen = of_project(project, "a"), make(30), []
    for event in trainer:
        seen.append(event)
        if isinstance(event, events.Stepped) and event.step == 3:
            changed(folder, "a", paint(project, "a", 7, 3))
        if isinstance(event, events.LabelsTaken) and event.revision == 2:
            undone = (before[7:8] + 1).astype(np.uint8)
            changed(folder, "a", save_region(project.path, "a", (7, 0, 0), undone).revision)
    assert [revision for _, revision, _ in taken(seen)] == [2, 3]
    np.testing.assert_array_equal(targets_of(trainer, "a"), before)


def test_a_command_for_what_is_known_is_answered(
    make: Callable[..., Trainer], project: Project, folder: Path
) -> None:
    seen = []
    for event in make(14):
        seen.append(event)
        if isinstance(event, events.Started):
            changed(folder, "a", 1)
    assert taken(seen) == [("a", 1, "labelled")]


def test_a_command_for_a_stranger_is_warned_of(make: Callable[..., Trainer], folder: Path) -> None:
    seen = []
    for event in make(14):
        seen.append(event)
        if isinstance(event, events.Started):
            changed(folder, "nobody", 1)
    warnings = [e.message for e in seen if isinstance(e, events.Warned)]
    assert len(warnings) == 1
    assert "'nobody'" in warnings[0]


def test_labels_are_taken_while_paused(make: Callable[..., Trainer], project: Project, folder: Path) -> None:
    trainer, seen = make(6), []
    for event in trainer:
        seen.append(event)
        if isinstance(event, events.Started):
            send(folder, events.Pause())
        if isinstance(event, events.Paused):
            changed(folder, "a", paint(project, "a", 7, 3))
        if isinstance(event, events.LabelsTaken):
            send(folder, events.Resume())
    kinds = [event.kind for event in seen]
    assert kinds.index("paused") < kinds.index("labels_taken") < kinds.index("continued")


# --- without the command, and roles


@pytest.fixture
def intake(project: Project, settings: Settings) -> Iterator[Callable[[], list[events.Event]]]:
    """Call it for what a look finds, whose clock is always a second later."""
    data = TrainingData.of(project)
    clock = iter(range(0, 10_000, 2))
    batches = Batches(data, settings(), CPU)
    made = LabelsIntake(project, data, batches, clock=lambda: float(next(clock)))

    def look() -> list[events.Event]:
        told = []
        for _ in range(3):  # one that is under way, one more, and its answer
            told += list(made.take(0))
            made.close()
        return told

    look.batches = batches  # type: ignore[attr-defined]
    yield look
    made.close()


def names(intake: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return intake.batches.labelled.names, intake.batches.unlabelled.names


def test_a_lost_command_is_made_up_for(intake: Any, project: Project) -> None:
    assert intake() == []
    paint(project, "a", 7, 3)
    assert taken(intake()) == [("a", 2, "labelled")]
    assert intake() == []


def test_only_the_box_that_changed_is_read(
    intake: Any, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes, read = [], stored.Volume.read_annotated
    monkeypatch.setattr(
        stored.Volume, "read_annotated", lambda self, box=None: boxes.append(box) or read(self, box)
    )
    intake()
    assert boxes == []
    save_region(project.path, "a", (17, 17, 0), np.full((1, 1, 1), 3, np.uint8))
    intake()
    assert boxes == [((16, 20), (16, 18), (0, 16))], "the cell of 16³ that the voxel lies in"


def test_a_first_label_makes_a_volume_labelled_and_none_unlabelled_again(
    intake: Any, project: Project
) -> None:
    assert names(intake) == (("a", "b"), ("u", "w"))
    paint(project, "w", 5, 2)
    assert taken(intake()) == [("w", 1, "labelled")]
    assert names(intake) == (("a", "b", "w"), ("u", "w")), "what is not annotated of it is unlabelled still"
    paint(project, "u", 5, 2)
    intake()
    assert names(intake)[0] == ("a", "b", "u", "w"), "in the order of import"
    paint(project, "w", 5, 0)
    assert taken(intake()) == [("w", 2, "unlabelled")]
    assert names(intake) == (("a", "b", "u"), ("u", "w"))


def test_measured_volumes_never_move(intake: Any, project: Project) -> None:
    before = names(intake)
    for name in ("v", "t"):
        paint(project, name, 5, 0)
    assert intake() == []
    Project.open(project.path).set_role("u", "test")
    save_region(project.path, "u", (5, 0, 0), np.full((1, *SHAPE[1:]), 2, np.uint8))
    assert intake() == []
    assert names(intake) == before


def test_batches_hold_what_was_painted_and_nothing_else(intake: Any, project: Project) -> None:
    for name in ("a", "b"):
        Project.open(project.path).set_role(name, "unlabelled")
    paint(project, "w", 5, 2)
    intake()
    assert names(intake)[0] == ("w",)
    for step in range(20):
        y = intake.batches.at(Randomness(0, step)).y_l
        assert set(y.unique().tolist()) == {IGNORE, 1}, "each patch holds annotated voxels"


def test_a_damaged_annotation_is_warned_of_once_and_the_old_labels_stay(
    intake: Any, project: Project
) -> None:
    volume = project.volumes["a"]
    paint(project, "a", 7, 3)
    chunk = next(p for p in (volume.path / "labels/annotation/0").rglob("*") if p.name == "0" and p.is_file())
    content = bytearray(chunk.read_bytes())
    sound = bytes(content)
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))
    told = intake()
    assert [event.kind for event in told] == ["warned"]
    assert "labels of a are kept as they were" in told[0].message
    assert "0/0/0" in told[0].message, "the chunk is named"
    assert intake() == []
    held = intake.batches.labelled._held[0]
    assert (held.labels.target[held.inside][7] != 2).any()
    chunk.write_bytes(sound)
    paint(project, "a", 8, 3)
    assert taken(intake()) == [("a", 3, "labelled")]
    assert (intake.batches.labelled._held[0].labels.target[held.inside][7:9] == 2).all()


def test_without_the_manifest_the_labels_stay(intake: Any, project: Project) -> None:
    intake()
    (project.path / "project.toml").rename(project.path / "gone")
    assert [event.kind for event in intake()] == ["warned"]
    assert intake() == [], "said once"
    (project.path / "gone").rename(project.path / "project.toml")
    paint(project, "a", 7, 3)
    assert taken(intake()) == [("a", 2, "labelled")]


# --- resuming, and races


def test_a_resumed_run_goes_on_with_the_labels_as_they_are(
    make: Callable[..., Trainer], project: Project, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: batches follow from seed, step and labels, not from when the labels came."""
    monkeypatch.setattr(labels_intake, "WITHIN", 0)

    def run(name: str, stop: int | None) -> dict[str, torch.Tensor]:
        trainer = make(7, "crln")
        trainer.folder = folder.with_name(name)
        trainer.folder.mkdir(exist_ok=True)
        for event in trainer:
            if isinstance(event, events.Stepped) and event.step == 2:
                changed(trainer.folder, "w", Project.open(project.path).volumes["w"].revision + 1)
                save_region(project.path, "w", (5, 0, 0), np.full((1, *SHAPE[1:]), 2, np.uint8))
            if isinstance(event, events.Stepped) and event.step == stop:
                break
        return {k: v.clone() for k, v in trainer.state.learner.student.state_dict().items()}

    unbroken = run("unbroken", None)
    save_region(project.path, "w", (5, 0, 0), np.zeros((1, *SHAPE[1:]), np.uint8))
    assert Project.open(project.path).volumes["w"].role == "unlabelled"
    run("broken", 5)
    assert Project.open(project.path).volumes["w"].role == "labelled"
    resumed = run("broken", None)
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


def test_painting_all_the_while_through_checkpoints_previews_and_validation(
    make: Callable[..., Trainer], project: Project, folder: Path
) -> None:
    trainer = make(10, "crln", checkpoint_every=1, validate_every=4, preview_share=0.5)
    ended, painted = threading.Event(), []

    def painter() -> None:
        rng = np.random.default_rng(0)
        while not ended.is_set():
            name = ("a", "w")[int(rng.integers(2))]
            painted.append((name, paint(project, name, int(rng.integers(20)), int(rng.integers(1, 4)))))
            changed(folder, *painted[-1])
            time.sleep(0.02)

    thread = threading.Thread(target=painter)
    thread.start()
    seen = []
    try:
        for event in trainer:
            seen.append(event)
            if event.step >= 9:
                ended.set()
    finally:
        ended.set()
        thread.join()
    assert isinstance(seen[-1], events.Ended)
    assert seen[-1].reason == "finished"
    assert not [e.message for e in seen if isinstance(e, events.Warned)]
    known: dict[str, int] = {}
    for name, revision, _ in taken(seen):
        assert revision >= known.get(name, 0)
        known[name] = revision
    assert known
    *_, last = make(11, "crln")
    assert isinstance(last, events.Ended)
    assert last.reason == "finished"
