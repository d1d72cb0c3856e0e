"""What is painted on an array is what is stored, by strokes, undos, failures, kills, and whatever comes between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from panel_fakes import AtOnce, Later

from napari_crln import durable
from napari_crln.errors import ProjectError
from napari_crln.gui import annotation_saver
from napari_crln.gui.annotation_saver import AnnotationSaver, SaveState, changed_boxes
from napari_crln.volume.editing import editor, holding
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume

U8 = NDArray[np.uint8]
SHAPE = (12, 20, 70)
PAINTER = Path(__file__).with_name("annotation_painter.py")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "sync", lambda path: None)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    project = Project.create(tmp_path / "p.crln", ClassTable.from_ids({"background": 0, "one": 1, "two": 2}))
    image = np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8)
    return project.add("v", image, Grid.from_spacing(SHAPE), "unlabelled")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A saver, the array that is painted on, and what it told."""

    def __init__(self, volume: Volume, background: Any) -> None:
        self.volume, self.background, self.clock = volume, background, Clock()
        self.array: U8 = np.zeros(SHAPE, np.uint8)
        self.told: list[SaveState] = []
        project = volume.path.parents[1]
        self.saver = AnnotationSaver(
            project, "v", lambda: self.array, 0, self.array.copy(), background, self.told.append, self.clock
        )

    def paint(self, plane: int, value: int = 2) -> None:
        self.array[plane, 2:6, 3:9] = value
        self.saver.touch()

    def after(self, seconds: float) -> None:
        self.clock.now += seconds
        self.saver.tick()

    def check(self) -> None:
        np.testing.assert_array_equal(self.volume.read_annotation(), self.array)


@pytest.fixture
def bench(volume: Volume) -> Iterator[Bench]:
    made = Bench(volume, AtOnce())
    yield made
    made.saver.close()


@pytest.fixture
def later(volume: Volume) -> Iterator[Bench]:
    made = Bench(volume, Later())
    yield made
    made.saver.close()


def test_a_stroke_is_saved_soon_after_its_end_and_not_before(bench: Bench) -> None:
    bench.paint(3)
    assert bench.saver.state.pending
    bench.after(0.2)
    assert not bench.volume.has_annotation
    bench.after(0.2)
    bench.check()
    assert (bench.saver.state.revision, bench.saver.state.pending) == (1, False)
    assert bench.told[-1] == bench.saver.state


def test_what_the_first_stroke_needs_is_made_ready_and_taken_away_again(bench: Bench) -> None:
    def ready() -> bool:
        return bench.volume.path.with_name(".v.zarr.blank").exists()

    bench.saver.prepare()
    assert ready()
    assert not bench.volume.has_annotation
    bench.saver.let_go()
    assert not ready(), "nothing was painted"
    bench.saver.prepare()
    bench.paint(3)
    bench.after(0.5)
    assert not ready()
    bench.check()
    assert bench.saver.state.revision == 1
    bench.saver.prepare()
    assert not ready(), "there is an annotation"


def test_painting_without_a_pause_is_saved_every_second(bench: Bench) -> None:
    for k in range(30):
        bench.paint(k % 12, 1 + k % 3)
        bench.after(0.1)
    assert 2 <= bench.volume.revision <= 4


def test_nothing_is_written_where_nothing_was_painted(bench: Bench) -> None:
    for _ in range(5):
        bench.saver.touch(painted=False)
        bench.after(1.0)
    assert not bench.volume.has_annotation
    assert bench.told == []


def test_an_undo_after_the_hand_over_is_saved_too(bench: Bench) -> None:
    bench.paint(3)
    bench.after(1.0)
    assert bench.volume.annotated == 24
    bench.array[3] = 0  # napari's undo tells of no painting: it only draws anew
    bench.saver.touch(painted=False)
    bench.after(1.0)
    bench.check()
    assert (bench.volume.revision, bench.volume.annotated) == (2, 0)
    assert Project.open(bench.volume.path.parents[1]).volumes["v"].role == "unlabelled"
    bench.array[3, 2:6, 3:9] = 2  # redo
    bench.saver.touch(painted=False)
    bench.after(1.0)
    bench.check()


def test_two_quick_strokes_while_a_save_is_under_way(later: Bench) -> None:
    later.paint(3)
    later.after(0.5)
    later.paint(5)
    later.after(0.5)
    assert len(later.background.waiting) == 1, "one save at a time"
    later.background.answer()
    later.check()
    assert later.saver.state.pending, "the second stroke asked for another look"
    later.after(0.5)
    later.background.answer()
    assert not later.saver.state.pending


def test_a_stroke_that_goes_on_while_it_is_saved_is_saved_whole(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = annotation_saver.save_region

    def painted_meanwhile(*arguments: Any, **more: Any) -> Any:
        bench.array[3, 10:12] = 3
        return save(*arguments, **more)

    bench.paint(3)
    monkeypatch.setattr(annotation_saver, "save_region", painted_meanwhile)
    bench.after(1.0)
    monkeypatch.undo()
    bench.saver.touch()
    bench.after(1.0)
    bench.check()


def test_another_process_is_named_and_nothing_is_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, refused = annotation_saver.save_region, ProjectError("held by process 7", "one edits", "Wait")

    def refuse(*_: Any, **__: Any) -> Any:
        raise refused

    monkeypatch.setattr(annotation_saver, "save_region", refuse)
    bench.paint(3)
    bench.after(0.5)
    assert "held by process 7" in bench.saver.state.error
    assert bench.saver.state.pending
    monkeypatch.setattr(annotation_saver, "save_region", save)
    bench.after(1.0)
    assert not bench.volume.has_annotation, "not every tick"
    bench.after(3.0)
    bench.check()
    assert (bench.saver.state.error, bench.saver.state.pending) == ("", False)


def test_the_annotation_is_held_from_the_first_stroke_until_it_is_let_go(bench: Bench) -> None:
    assert editor(bench.volume.path) is None
    bench.paint(3)
    bench.after(0.5)
    assert editor(bench.volume.path) is not None
    bench.paint(4)
    bench.saver.let_go()
    assert editor(bench.volume.path) is None
    bench.check()
    bench.paint(5)
    bench.after(0.5)
    assert editor(bench.volume.path) is not None
    bench.saver.close()
    assert editor(bench.volume.path) is None


def test_closing_saves_what_is_left(later: Bench) -> None:
    later.paint(3)
    later.after(0.5)  # begun, and never answered
    later.paint(4)
    assert not later.saver.close().pending
    later.check()
    assert later.volume.revision == 1
    later.array[7] = 1  # the layer is the user's own now
    later.background.answer()
    assert later.volume.revision == 1
    assert (later.volume.read_annotation()[7] == 0).all()


def test_a_stroke_on_closing_is_saved_though_letting_go_is_under_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing = threading.Thread(target=bench.saver.close)
    original = annotation_saver.blank.discard

    def paint_and_close(path: Path) -> None:
        if closing.ident is None:  # another volume was shown: this is its turn, after its save
            bench.paint(7)
            closing.start()
            while not bench.saver._closed:
                time.sleep(0.001)
        original(path)

    monkeypatch.setattr(annotation_saver.blank, "discard", paint_and_close)
    bench.paint(3)
    bench.saver.let_go()
    closing.join(10)
    bench.check()


def test_what_another_part_of_the_panel_wrote_is_kept_and_told(bench: Bench) -> None:
    bench.paint(3)
    bench.after(0.5)
    assert not bench.saver.state.outdated
    with holding(bench.volume.path):
        bench.volume.write_annotation_region((9, 0, 0), np.full((1, 5, 5), 3, np.uint8))
    bench.paint(4)
    bench.after(0.5)
    assert bench.saver.state.outdated
    stored = bench.volume.read_annotation()
    assert (stored[9, :5, :5] == 3).all()
    assert (stored[4] == bench.array[4]).all()


@pytest.mark.parametrize("what", ["values", "shape"])
def test_what_cannot_be_stored_is_an_error_and_not_lost(bench: Bench, what: str) -> None:
    if what == "values":
        bench.array[0, 0, 0] = 9
    else:
        bench.array = bench.array[:5]
    bench.saver.touch()
    bench.after(0.5)
    assert bench.saver.state.error
    if what == "values":
        bench.array[0, 0, 0] = 1
    else:
        bench.array = np.zeros(SHAPE, np.uint8)
    bench.paint(3)
    bench.after(4.0)
    bench.check()
    assert not bench.saver.state.error


def test_layers_of_signed_integers_are_saved_in_the_stored_dtype(volume: Volume) -> None:
    bench = Bench(volume, AtOnce())
    bench.saver.close()
    array = np.zeros(SHAPE, np.int64)
    bench.saver = AnnotationSaver(
        volume.path.parents[1],
        "v",
        lambda: array,
        0,
        np.zeros(SHAPE, np.uint8),
        AtOnce(),
        bench.told.append,
        bench.clock,
    )
    array[3, 3, 3] = 2
    bench.saver.touch()
    bench.after(1.0)
    assert (volume.read_annotation().dtype, volume.read_annotation()[3, 3, 3]) == (np.uint8, 2)
    array[3, 3, 4] = -1
    bench.saver.touch()
    bench.after(1.0)
    assert bench.saver.state.error
    array[3, 3, 4] = 0
    bench.saver.close()


@given(st.data())
def test_boxes_hold_all_that_differs(data: st.DataObject) -> None:
    one = np.zeros((9, 5, 6), np.uint8)
    other = one.copy()
    for _ in range(data.draw(st.integers(0, 4))):
        other[tuple(data.draw(st.integers(0, n - 1)) for n in one.shape)] = 1
    covered = np.zeros(one.shape, np.bool_)
    for box in changed_boxes(one, other):
        where = tuple(slice(*span) for span in box)
        assert not covered[where].any(), "a voxel is in one box"
        covered[where] = True
        for axis in range(1, 3):
            edges = (one[where] != other[where]).any(tuple(a for a in range(3) if a != axis))
            assert edges[0]
            assert edges[-1]
    assert not ((one != other) & ~covered).any()


# --- kill -9


def test_kill_9_while_painting_loses_at_most_two_seconds_and_damages_nothing(volume: Volume) -> None:
    """The painter says when each of its planes was painted; what is missing was painted in the last 2 s."""
    source = [str(Path(__file__).parents[3] / "src"), str(Path(__file__).parent)]
    painter = subprocess.Popen(
        [sys.executable, str(PAINTER), str(volume.path.parents[1]), "v"],
        stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.pathsep.join(source)},
    )  # fmt: skip
    assert painter.stdout is not None
    said: list[tuple[int, float]] = []

    def listen() -> None:
        assert painter.stdout is not None
        for line in painter.stdout:
            said.append((int(line), time.monotonic()))

    listener = threading.Thread(target=listen)
    listener.start()
    deadline = time.monotonic() + 60
    while len(said) < 45 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(painter.pid, signal.SIGKILL)
    killed = time.monotonic()
    painter.wait()
    listener.join()
    painter.stdout.close()
    stored = volume.read_annotation()
    kept = {k for k, _ in said if (stored[k % 12, (k // 12) % 20] == 2).all()}
    assert kept, "nothing was saved"
    lost = [at for k, at in said if k not in kept]
    assert all(killed - at <= 2.0 for at in lost)
    assert set(np.unique(stored)) <= {0, 2}
    assert volume.write_annotation_region((0, 0, 0), np.full((1, 1, 1), 3, np.uint8)) > 1
