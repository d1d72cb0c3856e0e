"""Region writes of an annotation: exact, whole or not at all whenever the writer is killed, one writer at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_crln.errors import GridMismatch, InvalidLabel, ProjectError
from napari_crln.volume import annotation, journal, pyramid, store
from napari_crln.volume.accept import replace_annotation
from napari_crln.volume.editing import editor, holding, writing
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume

U8 = NDArray[np.uint8]
SHAPE = (70, 90, 150)  # 2 × 2 × 3 chunks, two levels
WRITER = Path(__file__).with_name("annotation_writer.py")


@pytest.fixture
def volume(project: Project) -> Volume:
    return add(project, np.zeros(SHAPE, np.uint8), "v")


def add(project: Project, values: U8 | None, name: str) -> Volume:
    image = np.zeros(SHAPE, np.uint8)
    image[::2] = 1
    made = project.add(name, image, Grid.from_spacing(SHAPE), "unlabelled")
    if values is not None:
        made.write_annotation(values, "sparse")
    return made


def files(volume: Volume) -> dict[str, tuple[int, int]]:
    """Inode and time of every chunk file."""
    root = volume.path / "labels" / "annotation"
    found = (path for path in root.rglob("*") if path.is_file() and path.name != "zarr.json")
    return {str(p.relative_to(root)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in found}


def levels(volume: Volume) -> list[U8]:
    count = len(pyramid.plan(volume.grid.shape, volume.grid.spacing))
    return [store.read(annotation.folder_of(volume.path) / str(level)) for level in range(count)]


def check_pyramid(volume: Volume) -> None:
    plan, held = pyramid.plan(volume.grid.shape, volume.grid.spacing), levels(volume)
    for finer, coarser, level in zip(held, held[1:], plan[1:], strict=False):
        np.testing.assert_array_equal(coarser, pyramid.decimate(finer, level.factors))


def test_only_chunks_that_differ_are_written(volume: Volume) -> None:
    before = files(volume)
    assert volume.write_annotation_region((2, 3, 60), np.full((1, 5, 9), 2, np.uint8)) == 2
    changed = {name for name, stamp in files(volume).items() if before.get(name) != stamp}
    assert changed == {"0/c/0/0/0", "0/c/0/0/1", "1/c/0/0/0"}
    assert set(files(volume)) == set(before), "something is left"
    assert not [p.name for p in volume.path.parent.iterdir() if p.name != volume.path.name]


def test_voxels_outside_the_mask_stay(volume: Volume) -> None:
    volume.write_annotation_region((5, 5, 5), np.full((2, 2, 2), 3, np.uint8))
    where = np.zeros((4, 4, 4), np.bool_)
    where[0] = True
    volume.write_annotation_region((4, 4, 4), np.full((4, 4, 4), 1, np.uint8), where)
    expected = np.zeros(SHAPE, np.uint8)
    expected[5:7, 5:7, 5:7] = 3
    expected[4, 4:8, 4:8] = 1
    np.testing.assert_array_equal(volume.read_annotation(), expected)
    assert volume.annotated == 24


def test_what_changes_nothing_is_no_revision(volume: Volume) -> None:
    before = files(volume)
    assert volume.write_annotation_region((0, 0, 0), np.zeros((9, 9, 9), np.uint8)) == 1
    assert files(volume) == before


def test_the_first_stroke_makes_a_sparse_annotation(project: Project) -> None:
    volume = add(project, None, "fresh")
    assert volume.write_annotation_region((69, 89, 149), np.full((1, 1, 1), 2, np.uint8)) == 1
    assert (volume.coverage, volume.annotated) == ("sparse", 1)
    assert volume.read_annotation()[69, 89, 149] == 2
    check_pyramid(volume)


def test_erasing_in_a_dense_annotation_makes_it_sparse(project: Project) -> None:
    volume = add(project, None, "dense")
    volume.write_annotation(np.ones(SHAPE, np.uint8), "dense")
    volume.write_annotation_region((0, 0, 0), np.full((1, 1, 1), 2, np.uint8))
    assert volume.coverage == "dense"
    volume.write_annotation_region((0, 0, 0), np.zeros((1, 1, 2), np.uint8))
    assert (volume.coverage, volume.annotated) == ("sparse", np.prod(SHAPE) - 2)


def test_annotations_of_older_versions_take_strokes_too(project: Project) -> None:
    volume = add(project, None, "old")
    plan = pyramid.plan(SHAPE, volume.grid.spacing)
    record = {"coverage": "dense", "revision": 7}
    folder = volume.path / "labels" / "annotation"
    store.write_multiscale(folder, np.ones(SHAPE, np.uint8), plan, "label", {"ome": {}, "crln": record})
    assert store.has_shards(folder / "0")
    assert volume.annotated == np.prod(SHAPE)
    assert volume.write_annotation_region((1, 1, 1), np.full((1, 1, 1), 3, np.uint8)) == 8
    assert (volume.coverage, volume.annotated) == ("dense", np.prod(SHAPE))
    before = files(volume)
    volume.write_annotation_region((1, 1, 1), np.full((1, 1, 1), 2, np.uint8))
    assert sum(stamp != before[name] for name, stamp in files(volume).items()) == 1
    check_pyramid(volume)


@pytest.mark.parametrize(
    ("start", "shape", "value", "error"),
    [((-1, 0, 0), (2, 2, 2), 1, GridMismatch), ((69, 0, 0), (2, 2, 2), 1, GridMismatch),
     ((0, 0, 0), (0, 2, 2), 1, GridMismatch), ((0, 0, 0), (1, 1, 1), 4, InvalidLabel)],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    volume: Volume, start: Any, shape: tuple[int, ...], value: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        volume.write_annotation_region(start, np.full(shape, value, np.uint8))
    assert volume.revision == 1


@given(
    strokes=st.lists(
        st.tuples(*(st.tuples(st.integers(0, n - 1), st.integers(1, 70)) for n in SHAPE), st.integers(0, 3)),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_strokes_equal_those_on_a_plain_array(volume: Volume, strokes: Any) -> None:
    model = np.zeros(SHAPE, np.uint8)
    volume.write_annotation_region((0, 0, 0), model)
    revision = volume.revision
    for *spans, value in strokes:
        box = tuple(slice(s, min(s + n, m)) for (s, n), m in zip(spans, SHAPE, strict=True))
        before = model.copy()
        model[box] = value
        volume.write_annotation_region(tuple(s.start for s in box), model[box])  # type: ignore[arg-type]
        revision += bool((before != model).any())
        assert volume.revision == revision
    np.testing.assert_array_equal(volume.read_annotation(), model)
    assert volume.annotated == np.count_nonzero(model)
    check_pyramid(volume)


def test_the_box_of_the_last_changes(volume: Volume) -> None:
    volume.write_annotation_region((1, 2, 3), np.full((2, 2, 2), 2, np.uint8))
    volume.write_annotation_region((5, 0, 9), np.full((1, 1, 1), 2, np.uint8))
    assert volume.changes_since(1) == ((1, 6), (0, 4), (3, 10))
    assert volume.changes_since(2) == ((5, 6), (0, 1), (9, 10))
    assert volume.changes_since(3) is None, "nothing has changed"
    assert volume.changes_since(0) is None, "revision 1 was a whole one"
    np.testing.assert_array_equal(volume.read_annotation(((1, 6), (0, 4), (3, 10))).sum(), 8 * 2 + 2)


def test_a_replaced_annotation_has_changed_everywhere(volume: Volume) -> None:
    volume.write_annotation_region((1, 2, 3), np.full((2, 2, 2), 2, np.uint8))
    volume.write_annotation(np.ones(SHAPE, np.uint8), "dense")
    volume.write_annotation_region((1, 2, 3), np.full((2, 2, 2), 2, np.uint8))
    assert volume.changes_since(1) is None
    assert volume.changes_since(3) == ((1, 3), (2, 4), (3, 5))


# --- one writer at a time


def test_threads_that_write_at_once_each_get_a_revision(volume: Volume) -> None:
    revisions: list[int] = []

    def write(k: int) -> None:
        for i in range(3):
            values = np.full((1, 1, 1), 2, np.uint8)
            revisions.append(volume.write_annotation_region((k, i, 0), values))

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(revisions) == list(range(2, 14))
    assert volume.annotated == np.count_nonzero(volume.read_annotation()) == 12


def test_whole_writes_at_once_each_get_a_revision(volume: Volume) -> None:
    revisions: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: revisions.append(volume.write_annotation(np.ones(SHAPE, np.uint8), "dense"))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(revisions) == [2, 3, 4]


def test_a_second_process_is_refused_and_told_by_whom(volume: Volume) -> None:
    with child(volume, "hold") as holder:
        said = f"process {holder.pid} on .* one process edits the annotation of v at a time"
        with pytest.raises(ProjectError, match=said), writing(volume.path, patience=0.0):
            pytest.fail("two writers")
        named = editor(volume.path)
        assert named is not None
        assert named.pid == holder.pid
    assert editor(volume.path) is None
    assert volume.write_annotation_region((0, 0, 0), np.full((1, 1, 1), 2, np.uint8)) == 2, (
        "its lock is stale"
    )


def test_a_process_may_hold_and_write(volume: Volume) -> None:
    with holding(volume.path), holding(volume.path):
        volume.write_annotation(np.ones(SHAPE, np.uint8), "dense")
        volume.write_annotation_region((0, 0, 0), np.full((1, 1, 1), 2, np.uint8))
        assert editor(volume.path) is not None
    assert editor(volume.path) is None


def test_a_write_of_another_revision_than_expected_is_refused(volume: Volume) -> None:
    with pytest.raises(ProjectError, match="changed meanwhile"):
        volume.write_annotation(np.ones(SHAPE, np.uint8), "dense", expected=0)
    assert volume.write_annotation(np.ones(SHAPE, np.uint8), "dense", expected=1) == 2


# --- kill -9


class child:
    """A process that works on the annotation; killed -9 at the end."""

    def __init__(self, volume: Volume, *what: str) -> None:
        source = str(Path(__file__).parents[3] / "src")
        self._process = subprocess.Popen(
            [sys.executable, str(WRITER), str(volume.path.parents[1]), volume.name, *what],
            stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": source},
        )  # fmt: skip

    def __enter__(self) -> subprocess.Popen[bytes]:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self._process

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def uniform(values: U8) -> int:
    """The one value of all voxels of the box that the writer fills: a mixture is what must never be."""
    box = values[10:70, 20:90, 30:150]
    assert (box == box[0, 0, 0]).all(), "half old, half new"
    return int(box[0, 0, 0])


@pytest.mark.parametrize("at", [0, 1, 2, 9, 99])
def test_a_writer_killed_at_any_rename_leaves_old_or_new_voxels(volume: Volume, at: int) -> None:
    with child(volume, "die", str(at)) as writer:
        writer.wait(30)
    seen, revision = volume.read_annotated()
    assert (uniform(seen), revision) in {(0, 1), (2, 2)}
    assert (uniform(seen) == 2) == (at > 0), "the first rename is the one that counts"
    check_pyramid(volume)
    assert not journal.revisions(annotation._journal(volume.path))
    assert volume.write_annotation_region((0, 0, 0), np.full((1, 1, 1), 3, np.uint8)) == revision + 1
    assert volume.annotated == np.count_nonzero(volume.read_annotation())
    assert not list((volume.path / "labels").rglob(".*"))


def test_a_copy_for_the_history_holds_the_last_stroke_of_a_killed_writer(volume: Volume) -> None:
    with child(volume, "die", "2") as writer:  # committed, not all laid out
        writer.wait(30)
    replaced = replace_annotation(volume, np.zeros(SHAPE, np.uint8), "sparse")
    assert (replaced.revision, replaced.kept) == (3, volume.path / "history" / "annotation-2")
    assert replaced.kept is not None
    kept = store.read(replaced.kept / "0")
    assert uniform(kept) == 2


def test_a_reader_sees_whole_strokes_while_another_process_paints_and_is_killed(volume: Volume) -> None:
    revisions = []
    with child(volume, "paint") as writer:
        end, late = time.monotonic() + 1.5, time.monotonic() + 60
        while time.monotonic() < end or (len(set(revisions)) < 3 and time.monotonic() < late):
            values, revision = volume.read_annotated(((10, 70), (20, 90), (30, 150)))
            assert (values == values[0, 0, 0]).all(), "half old, half new"
            revisions.append(revision)
        writer.kill()
    assert len(set(revisions)) > 2, "nothing was painted meanwhile"
    assert revisions == sorted(revisions)
    uniform(volume.read_annotation())
    check_pyramid(volume)
    assert volume.write_annotation_region((0, 0, 0), np.full((1, 1, 1), 3, np.uint8)) > revisions[-1]


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "compressed"])
def test_a_damaged_journal_writes_nothing_anywhere(volume: Volume, damage: str, tmp_path: Path) -> None:
    import zipfile

    path = annotation._journal(volume.path).with_name(f".{volume.path.name}.change-2")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if damage == "compressed" else 0) as archive:
        archive.writestr("../../x" if damage == "foreign" else "0/c/0/0/0", b"x" * 99)
        archive.writestr("zarr.json", b"{}" * 50)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[:-30]
    if damage == "flipped":
        content[content.index(b"xxxx")] ^= 1
    path.write_bytes(bytes(content))
    before = files(volume)
    with pytest.raises(ProjectError, match="damaged journal"):
        volume.write_annotation_region((0, 0, 0), np.full((1, 1, 1), 3, np.uint8))
    assert files(volume) == before
    assert not (tmp_path / "x").exists()


def test_table_with_more_than_255_values_keeps_two_bytes(tmp_path: Path) -> None:
    ids = {"background": 0, **{f"class {k}": k for k in range(1, 300)}}
    project = Project.create(tmp_path / "many.crln", ClassTable.from_ids(ids))
    image = np.zeros((4, 4, 4), np.uint8)
    image[0] = 1
    volume = project.add("a", image, Grid.from_spacing((4, 4, 4)), "unlabelled")
    volume.write_annotation_region((0, 0, 0), np.full((1, 1, 1), 299, np.uint16))
    volume.write_annotation_region((1, 0, 0), np.full((1, 1, 1), 7, np.uint8))
    values = volume.read_annotation()
    assert (values.dtype, values[0, 0, 0], values[1, 0, 0]) == (np.uint16, 299, 7)
