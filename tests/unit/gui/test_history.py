"""Frames from a real `preview.zarr`: which generation is read, partial maps, methods without clues, removed ones."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from napari_crln.engine.generations import Generations
from napari_crln.gui.live_maps import BY_KEY
from napari_crln.gui.model import LiveChoice, Snapshot
from napari_crln.gui.preview_feed import Wanted, blank, read_frame, wanted
from napari_crln.gui.run_view import Preview, RunView
from napari_crln.previews import AnchorRecord, FocusRecord, MapRecord, PreviewRecord, exact, group_name, unit

SHAPE = (6, 8, 10)
ALL = frozenset(BY_KEY)


def publish(folder: Path, volume: str, value: int, planes: tuple[int, int] = (0, 6)) -> int:
    """A generation of a method without clues."""
    generations = Generations(folder / "preview.zarr", history=100)
    size = (planes[1] - planes[0], *SHAPE[1:])
    draft = generations.begin(size)
    draft.append("prediction", np.full(size, value, np.uint8), exact())
    draft.append("uncertainty", np.full(size, 10 * value, np.uint8), unit())
    record = PreviewRecord(
        generation=draft.generation, volume=volume, step=value, step_done=value, shape=SHAPE,
        region=(planes, (0, 8), (0, 10)), spacing=(1.0, 1.0, 1.0), classes=("background", "body"),
        focus=FocusRecord(axis=0, index=3), maps={"prediction": MapRecord(), "uncertainty": MapRecord(scale=1 / 255)},
        anchors=AnchorRecord(step=value, points=((1, 2, 3, 4),)), prototype=2,
    )  # fmt: skip
    draft.publish(record)
    return draft.generation


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    """Volume a: generations 1 (whole), 2 (a slab), 4; volume b: 3."""
    made = [("a", 1, (0, 6)), ("a", 2, (2, 4)), ("b", 3, (0, 6)), ("a", 4, (0, 6))]
    previews = tuple(Preview(publish(tmp_path, v, k, planes), v, k) for v, k, planes in made)
    return Snapshot(shown="a", run=RunView(folder=tmp_path, previews=previews), live=LiveChoice(shown=ALL))


def _asked(snapshot: Snapshot, **live: int) -> Wanted:
    question = wanted(replace(snapshot, live=replace(snapshot.live, **live)), ALL)
    assert question is not None
    return question


def test_the_newest_is_read_and_only_of_the_shown_volume(snapshot: Snapshot) -> None:
    frame = read_frame(_asked(snapshot), None)
    assert frame is not None
    assert (frame.volume, frame.generation, frame.step) == ("a", 4, 4)
    assert set(frame.maps) == {"prediction", "uncertainty"}, "what the method does not make is no error"
    assert frame.anchors == AnchorRecord(step=4, points=((1, 2, 3, 4),))
    assert frame.prototype == 2
    other = read_frame(_asked(replace(snapshot, shown="b")), frame)
    assert other is not None
    assert (other.volume, other.generation) == ("b", 3)


def test_a_past_slab_is_laid_over_the_whole_before_it(snapshot: Snapshot) -> None:
    frame = read_frame(_asked(snapshot, generation=2), None)
    assert frame is not None
    prediction = frame.maps["prediction"].stored
    assert (prediction[2:4] == 2).all()
    assert (prediction[:2] == 1).all()
    assert (prediction[4:] == 1).all()


def test_a_newer_frame_never_lies_under_an_older_slab(snapshot: Snapshot) -> None:
    newest = read_frame(_asked(snapshot), None)
    frame = read_frame(_asked(snapshot, generation=2), newest)
    assert frame is not None
    assert set(np.unique(frame.maps["prediction"].stored)) == {1, 2}


def test_a_removed_generation_is_no_error(snapshot: Snapshot, tmp_path: Path) -> None:
    question = _asked(snapshot, generation=1)
    shutil.rmtree(tmp_path / "preview.zarr" / group_name(1))
    assert read_frame(question, None) is None
    gone = replace(snapshot.run, previews=(replace(snapshot.run.previews[0], kept=False),))
    assert wanted(replace(snapshot, run=gone), ALL) is None


def test_a_blank_frame_says_nothing_of_its_volume(snapshot: Snapshot) -> None:
    frame = read_frame(_asked(snapshot), None)
    assert frame is not None
    empty = blank(frame, "c", (2, 3, 4), {key: each.quantisation for key, each in frame.maps.items()})
    assert empty.maps.keys() == frame.maps.keys()
    assert (empty.volume, empty.generation, empty.shape, empty.anchors) == ("c", 0, (2, 3, 4), None)
    assert not any(picture.stored.any() for picture in empty.maps.values())
