"""Generations on disk and their reader: whole or not there, the newest kept, read back as written."""

from __future__ import annotations

import itertools
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import zarr

from napari_crln import durable, events
from napari_crln.engine.generations import Draft, Generations
from napari_crln.errors import OutOfSpace, RunError
from napari_crln.previews import FocusRecord, MapRecord, PreviewRecord, exact, group_name, symmetric
from napari_crln.run.preview import PreviewGone, PreviewReader
from napari_crln.volume import store

SHAPE = (70, 20, 30)  # three bands of 32 planes, the last one short


def _record(generation: int, start: int = 5) -> PreviewRecord:
    return PreviewRecord(
        generation=generation,
        volume="liver-3",
        step=40,
        step_done=41,
        shape=(100, 20, 30),
        region=((start, start + SHAPE[0]), (0, 20), (0, 30)),
        spacing=(2.5, 0.7, 0.7),
        classes=("background", "liver", "tumour"),
        focus=FocusRecord(axis=0, index=40, generation=6),
        maps={"prediction": MapRecord(meaning="class"), "clues": MapRecord(**symmetric(-2, 3).model_dump())},
    )


def _labels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, SHAPE, dtype=np.uint8)


def _clues(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-2, 3, (3, *SHAPE)).astype(np.float32)


def _fill(draft: Draft, seed: int, cuts: tuple[int, ...] = (0, 33, 34, 70)) -> None:
    labels, clues = _labels(seed), symmetric(-2, 3).quantise(_clues(seed))
    for start, stop in itertools.pairwise(cuts):
        draft.append("prediction", labels[start:stop], exact())
        draft.append("clues", clues[:, start:stop], symmetric(-2, 3))


def _publish(generations: Generations, seed: int = 0) -> int:
    draft = generations.begin(SHAPE)
    _fill(draft, seed)
    draft.publish(_record(draft.generation))
    return draft.generation


@pytest.fixture
def generations(tmp_path: Path) -> Generations:
    return Generations(tmp_path / events.PREVIEW, history=3)


@pytest.mark.parametrize("cuts", [(0, 70), (0, 1, 32, 64, 70), (0, 33, 34, 70)])
def test_what_is_written_is_read(tmp_path: Path, generations: Generations, cuts: tuple[int, ...]) -> None:
    draft = generations.begin(SHAPE)
    _fill(draft, 1, cuts)
    draft.publish(_record(draft.generation))
    preview = PreviewReader(tmp_path).newest()
    assert preview is not None
    assert preview.record == _record(draft.generation)
    assert preview.maps == ("prediction", "clues")
    assert np.array_equal(preview.read("prediction"), _labels(1))
    assert np.abs(preview.values("clues") - _clues(1)).max() <= 0.5 * symmetric(-2, 3).scale + 1e-6
    for k in range(3):
        assert np.array_equal(preview.read("clues", k), preview.read("clues")[k])
    with pytest.raises(KeyError):
        preview.read("similarity")


def test_a_region_is_pasted_where_it_belongs(tmp_path: Path, generations: Generations) -> None:
    _publish(generations)
    preview = PreviewReader(tmp_path).newest()
    assert preview is not None
    assert not preview.record.is_whole
    layer = np.full(preview.record.shape, 9, np.uint8)
    preview.paste("prediction", layer)
    assert np.array_equal(layer[5:75], _labels(0))
    assert (layer[:5] == 9).all()
    assert (layer[75:] == 9).all()


def test_other_tools_can_open_it(tmp_path: Path, generations: Generations) -> None:
    """By its Zarr metadata alone, values by CF's scale_factor and add_offset."""
    name = group_name(_publish(generations, 3))
    root = zarr.open_group(tmp_path / events.PREVIEW, mode="r")
    array = root[f"{name}/clues"]
    assert isinstance(array, zarr.Array)
    values = np.asarray(array[:]) * array.attrs["scale_factor"] + array.attrs["add_offset"]
    assert np.allclose(values, _clues(3), atol=0.02)
    assert array.metadata.dimension_names == ("c", "z", "y", "x")


def test_nothing_is_seen_before_it_is_whole(tmp_path: Path, generations: Generations) -> None:
    reader = PreviewReader(tmp_path)
    assert reader.generations() == []
    assert reader.newest() is None
    draft = generations.begin(SHAPE)
    assert reader.generations() == []
    _fill(draft, 0, (0, 33))
    assert reader.generations() == []
    with pytest.raises(RuntimeError, match="planes are missing"):
        draft.publish(_record(draft.generation))
    assert reader.generations() == []
    draft.abandon()
    assert [p.name for p in (tmp_path / events.PREVIEW).iterdir()] == ["zarr.json"]


def test_what_a_killed_process_left_is_swept_and_numbers_go_on(
    tmp_path: Path, generations: Generations
) -> None:
    _publish(generations)
    killed = generations.begin(SHAPE)
    _fill(killed, 0, (0, 40))
    again = Generations(tmp_path / events.PREVIEW, history=3)
    assert not list((tmp_path / events.PREVIEW).glob(f"{durable.TEMPORARY}*"))
    assert _publish(again) == 2


def test_only_the_newest_are_kept(tmp_path: Path, generations: Generations) -> None:
    reader = PreviewReader(tmp_path)
    for number in range(1, 6):
        assert _publish(generations) == number
        generations.prune()
    assert reader.generations() == [3, 4, 5]
    assert sorted(p.name for p in reader.path.iterdir()) == [*map(group_name, (3, 4, 5)), "zarr.json"]


def test_a_reader_whose_generation_is_pruned_is_told_so(tmp_path: Path, generations: Generations) -> None:
    first = _publish(generations)
    reader = PreviewReader(tmp_path)
    held = reader.read(first)
    in_memory = held.read("prediction")
    for _ in range(3):
        _publish(generations, 5)
    generations.prune()
    with pytest.raises(PreviewGone, match="g00000001: the preview is gone"):
        held.read("clues")
    with pytest.raises(PreviewGone):
        reader.read(first)
    assert np.array_equal(in_memory, _labels(0))
    newest = reader.newest()
    assert newest is not None
    assert newest.generation == 4


def test_a_generation_that_goes_between_two_chunks_is_no_zeros(
    tmp_path: Path, generations: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zarr gives zeros for chunks that are not there; the check before reading cannot know of them yet."""
    _publish(generations)
    preview = PreviewReader(tmp_path).newest()
    assert preview is not None
    whole = store.open_array

    def pruned_meanwhile(folder: Path) -> object:
        return Pruned(whole(folder))

    class Pruned:
        def __init__(self, array: object) -> None:
            self._array = array

        def __getattr__(self, name: str) -> object:
            return getattr(self._array, name)

        def __getitem__(self, key: object) -> object:
            assert preview is not None
            preview.path.rename(preview.path.with_name(".tmp-leaving"))
            return self._array[key]  # type: ignore[index]

    monkeypatch.setattr(store, "open_array", pruned_meanwhile)
    with pytest.raises(PreviewGone):
        preview.read("prediction")


def test_files_that_vanish_while_read_are_no_zeros(tmp_path: Path, generations: Generations) -> None:
    """A missing chunk would read as the fill value."""
    _publish(generations)
    preview = PreviewReader(tmp_path).newest()
    assert preview is not None
    shutil.rmtree(preview.path / "prediction" / "c" / "1")
    with pytest.raises(PreviewGone):
        preview.read("prediction")
    assert preview.read("clues").shape == (3, *SHAPE)


def test_the_newest_readable_one_is_taken(tmp_path: Path, generations: Generations) -> None:
    _publish(generations)
    damaged = _publish(generations)
    reader = PreviewReader(tmp_path)
    (reader.path / group_name(damaged) / "zarr.json").write_text("{")
    newest = reader.newest()
    assert newest is not None
    assert newest.generation == 1


def test_a_later_schema_is_refused(tmp_path: Path, generations: Generations) -> None:
    draft = generations.begin(SHAPE)
    _fill(draft, 0)
    draft.publish(_record(draft.generation).model_copy(update={"schema_version": 99}))
    with pytest.raises(RunError, match="schema 99"):
        PreviewReader(tmp_path).newest()


def test_a_full_disk_is_an_error_with_numbers_and_leaves_nothing(
    tmp_path: Path, generations: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    _publish(generations)
    usage = namedtuple("usage", "total used free")
    draft = generations.begin(SHAPE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000, 990, 10))
    with pytest.raises(OutOfSpace, match="10 are free"):
        _fill(draft, 0)
    draft.abandon()
    assert PreviewReader(tmp_path).generations() == [1]
    assert not list((tmp_path / events.PREVIEW).glob(f"{durable.TEMPORARY}*"))
