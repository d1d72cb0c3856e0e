"""An annotation that lies ready: the first stroke is as quick as any, and the same as without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_crln.volume import annotation, blank
from napari_crln.volume.annotate import save_region
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume

SHAPE = (70, 90, 150)
IMAGE = np.arange(np.prod(SHAPE), dtype=np.uint32).reshape(SHAPE).astype(np.uint8)
STROKE = np.full((1, 5, 9), 2, np.uint8)
CLASSES = ClassTable.from_ids({"background": 0, "one": 1, "two": 2})


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    project = Project.create(tmp_path / "p.crln", CLASSES)
    return project.add("v", IMAGE, Grid.from_spacing(SHAPE, (1.0, 0.7, 0.7)), "unlabelled")


def _stroke(volume: Volume) -> int:
    return save_region(volume.path.parents[1], "v", (2, 3, 60), STROKE).revision


def _beside(volume: Volume) -> list[str]:
    return [p.name for p in volume.path.parent.iterdir() if p.name != volume.path.name]


def _painted() -> Any:
    expected = np.zeros(SHAPE, np.uint8)
    expected[2, 3:8, 60:69] = 2
    return expected


def test_the_first_stroke_writes_only_its_chunks(volume: Volume) -> None:
    blank.prepare(volume)
    blank.prepare(volume)
    assert not volume.has_annotation
    assert volume.revision == 0
    (ready,) = (volume.path.parent / name for name in _beside(volume))
    before = {p.relative_to(ready): p.stat().st_mtime_ns for p in ready.rglob("*") if p.is_file()}
    assert _stroke(volume) == 1
    assert _beside(volume) == []
    folder = annotation.folder_of(volume.path)
    written = {
        str(p.relative_to(folder)) for p in folder.rglob("*")
        if p.is_file() and before.get(p.relative_to(folder)) != p.stat().st_mtime_ns
    }  # fmt: skip
    assert written == {"zarr.json", "0/c/0/0/0", "0/c/0/0/1", "1/c/0/0/0"}
    np.testing.assert_array_equal(volume.read_annotation(), _painted())


def test_it_is_as_without(volume: Volume, tmp_path: Path) -> None:
    other = Project.create(tmp_path / "q.crln", CLASSES).add("v", IMAGE, volume.grid, "unlabelled")
    blank.prepare(volume)
    for each in (volume, other):
        _stroke(each)
    one, two = (annotation.record_of(each.path) for each in (volume, other))
    assert (one.coverage, one.revision, one.annotated) == (two.coverage, two.revision, two.annotated)
    files = [
        {
            str(p.relative_to(each.path)): p.read_bytes()
            for p in sorted(each.path.rglob("c/**/*"))
            if p.is_file()
        }
        for each in (volume, other)
    ]
    assert files[0] == files[1]
    listed = [(each.path / "labels" / "zarr.json").read_text() for each in (volume, other)]
    assert listed[0] == listed[1]
    assert Project.open(volume.path.parents[1]).volumes["v"].role == "labelled"


def test_one_for_other_classes_is_not_used(volume: Volume) -> None:
    blank.prepare(volume)
    (ready,) = (volume.path.parent / name for name in _beside(volume))
    text = (ready / "zarr.json").read_text()
    (ready / "zarr.json").write_text(text.replace('"two"', '"three"'))
    assert text != (ready / "zarr.json").read_text()
    _stroke(volume)
    assert _beside(volume) == []
    assert '"two"' in (annotation.folder_of(volume.path) / "zarr.json").read_text()
    np.testing.assert_array_equal(volume.read_annotation(), _painted())


def test_an_annotation_that_came_otherwise_stays(volume: Volume) -> None:
    blank.prepare(volume)
    volume.write_annotation(np.ones(SHAPE, np.uint8), "dense")
    assert _stroke(volume) == 2
    assert volume.coverage == "dense"
    assert _beside(volume) == []
    blank.prepare(volume)
    assert _beside(volume) == []


def test_it_can_be_taken_away(volume: Volume) -> None:
    blank.discard(volume.path)
    blank.prepare(volume)
    blank.discard(volume.path)
    assert _beside(volume) == []
    assert not volume.has_annotation


_DYING = """
import itertools, os, signal, sys
from pathlib import Path
from napari_crln.volume.project import Project
import numpy as np
from napari_crln.volume.annotate import save_region
count, rename = itertools.count(), os.rename
def dying(old, new, **more):
    if next(count) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(old, new, **more)
os.rename = dying
save_region(Path(sys.argv[1]), "v", (2, 3, 60), np.full((1, 5, 9), 2, np.uint8))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("at", [0, 1, 2, 99])
def test_a_painter_killed_at_any_rename_leaves_nothing_or_its_stroke(volume: Volume, at: int) -> None:
    blank.prepare(volume)
    project, source = str(volume.path.parents[1]), str(Path(__file__).parents[3] / "src")
    code = subprocess.run(
        [sys.executable, "-c", _DYING, project, str(at)], env=os.environ | {"PYTHONPATH": source}, check=False
    ).returncode
    assert code == -signal.SIGKILL
    found = Project.open(Path(project)).volumes["v"]
    if found.has_annotation and found.annotated:
        np.testing.assert_array_equal(found.read_annotation(), _painted())
    else:
        assert found.role == "unlabelled"
    assert _stroke(found) >= 1
    np.testing.assert_array_equal(found.read_annotation(), _painted())
    assert Project.open(Path(project)).volumes["v"].role == "labelled"
