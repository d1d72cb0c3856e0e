"""Damage to what a project stores: array and chunk are named, the volume is set aside, and training goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playground import Call, flip

from napari_crln import config, events
from napari_crln.engine import checkpoint
from napari_crln.engine.data import TrainingData
from napari_crln.engine.loop import Trainer
from napari_crln.errors import CorruptData, ProjectError
from napari_crln.gui.project_files import read_volume
from napari_crln.gui.stored_layers import image_layer, prediction_layer
from napari_crln.run.folder import RunFolder
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume

FLIPS = 200
IMAGE = "0/c/0/0/0"
LABEL = "labels/annotation/0/c/0/0/0"
TINY: dict[str, Any] = {
    "iterations": 3,
    "network": {"base_filters": 2},
    "batches": {"patch": [16, 16, 16]},
    "method": {"name": "mean-teacher"},
    "engine": {"device": "cpu", "log_every": 1, "checkpoint_every": 10, "preview_share": 0.0, "threads": 1},
}


def _bits(path: Path, seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).choice(8 * path.stat().st_size, count, replace=False).tolist()


@pytest.mark.parametrize(("chunk", "read"), [(IMAGE, Volume.read_image), (LABEL, Volume.read_annotation)])
def test_flipped_bits_of_chunks_are_named(
    project: Project, chunk: str, read: Callable[[Volume], object]
) -> None:
    volume = project.volumes["l1"]
    path = volume.path / chunk
    array, _, key = chunk.partition("/c/")
    for bit in _bits(path, 7, FLIPS):
        flip(path, bit)
        with pytest.raises(CorruptData, match=f"c/{key} fails its checksum") as caught:
            read(volume)
        assert str(volume.path / array) in str(caught.value)
        flip(path, bit)
    read(volume)


@pytest.mark.usefixtures("leaves_damage")
@pytest.mark.parametrize("damage", ["flip", "missing", "empty", "cut"])
@pytest.mark.parametrize("chunk", [IMAGE, "labels/prediction/0/c/0/0/0"])
def test_lazy_readers_never_see_zeros(project: Project, chunk: str, damage: str) -> None:
    """Prediction and napari slice arrays as they need them, through Zarr and Dask."""
    volume = project.volumes["l1"]
    path = volume.path / chunk
    {
        "flip": lambda: flip(path, 8 * (path.stat().st_size // 2)),
        "missing": path.unlink,
        "empty": lambda: path.write_bytes(b""),
        "cut": lambda: path.write_bytes(path.read_bytes()[:-7]),
    }[damage]()
    layer = image_layer if chunk == IMAGE else prediction_layer
    reads: list[Callable[[], object]] = [lambda: np.asarray(layer(project, volume)[0][3])]
    if chunk == IMAGE:
        reads += [lambda: volume.image[3], lambda: read_volume(project.path, "l1")]
    for read in reads:
        with pytest.raises(CorruptData, match="c/0/0/0"):
            read()


DESCRIPTIONS = ["zarr.json", "0/zarr.json", "labels/annotation/zarr.json", "labels/annotation/0/zarr.json"]


def _facts(project: Path) -> list[object]:
    """All that training and prediction take from a volume."""
    volume = Project.open(project).volumes["l1"]
    image, targets = volume.read_image(), volume.read_targets()
    return [
        image.dtype.str, image.shape, image.tobytes(), targets.dtype.str, targets.shape, targets.tobytes(),
        volume.grid.affine.tobytes(), volume.scaling, volume.normalisation, volume.source, volume.coverage, volume.revision,
    ]  # fmt: skip


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_flipped_bits_of_descriptions_are_found_or_harmless(project: Project, description: str) -> None:
    """zarr.json has no checksum of Zarr's: what is read is the truth, or an error of ours."""
    path = project.volumes["l1"].path / description
    truth, messages = _facts(project.path), list[str]()
    for bit in _bits(path, 11, 75):
        flip(path, bit)
        try:
            assert _facts(project.path) == truth, (
                f"bit {bit} of {description} changed what is read, in silence"
            )
        except (CorruptData, ProjectError) as error:
            messages.append(str(error))
        flip(path, bit)
    assert len(messages) > 10
    assert all("l1.zarr" in message for message in messages)
    assert _facts(project.path) == truth


@pytest.mark.parametrize(
    ("field", "value"),
    [("data_type", "int8"), ("shape", [22, 20, 17]), ("fill_value", 3), ("chunk_grid", None)],
)
@pytest.mark.usefixtures("leaves_damage")
def test_plausible_changes_of_a_description_are_found(project: Project, field: str, value: object) -> None:
    """As valid as before, and another reading: only the seal tells."""
    path = project.volumes["l1"].path / "0" / "zarr.json"
    document = json.loads(path.read_text())
    chunks = {"name": "regular", "configuration": {"chunk_shape": [22, 10, 18]}}
    document[field] = chunks if field == "chunk_grid" else value
    path.write_text(json.dumps(document))
    with pytest.raises(CorruptData, match="seal"):
        project.volumes["l1"].read_image()


@pytest.mark.usefixtures("leaves_damage")
def test_a_moved_affine_is_found(project: Project, call: Call) -> None:
    path = project.volumes["l1"].path / "zarr.json"
    path.write_text(path.read_text().replace("0.75", "0.74"))
    with pytest.raises(CorruptData, match="seal"):
        _ = Project.open(project.path).volumes["l1"].grid
    answer = call("inspect", project.path)
    assert (answer.code, "l1.zarr" in answer.err) == (4, True)


@pytest.mark.usefixtures("leaves_damage")
def test_labels_of_another_volume_are_found(project: Project) -> None:
    """Sound in itself, and not this volume's: as after a copy by hand that went wrong."""
    l1, u1 = project.volumes["l1"], project.volumes["u1"]
    small = project.add("small", l1.read_image()[:9], type(l1.grid)((9, 20, 18), l1.grid.affine), "test")
    shutil.copytree(l1.path / "labels", small.path / "labels")
    with pytest.raises(CorruptData, match=r"shape \(22, 20, 18\)"):
        small.read_prediction()
    shutil.rmtree(l1.path / "labels" / "annotation" / "0")
    shutil.copytree(u1.path / "0", l1.path / "labels" / "annotation" / "0")
    data = TrainingData.of(project)
    assert [case.name for case in data.labelled] == ["l2"]
    assert "annotation value" in data.warnings[0]


def _train(project: Project) -> list[events.Event]:
    settings = config.build(TINY)
    return list(Trainer.of(project, settings, RunFolder.create(project.path, settings).path))


def _warnings(seen: list[events.Event]) -> list[str]:
    return [event.message for event in seen if isinstance(event, events.Warned)]


DAMAGE = {
    "image": ("l1", IMAGE), "label": ("l2", LABEL), "unlabelled": ("u1", IMAGE), "validation": ("v", LABEL),
    "record": ("u2", "zarr.json"), "description": ("l1", "0/zarr.json"),
}  # fmt: skip


@pytest.mark.usefixtures("leaves_damage")
@pytest.mark.parametrize("how", ["flip", "missing"])
@pytest.mark.parametrize("case", DAMAGE)
def test_training_goes_on_with_the_others(project: Project, call: Call, case: str, how: str) -> None:
    name, part = DAMAGE[case]
    path = project.volumes[name].path / part
    flip(path, 4 * path.stat().st_size) if how == "flip" else path.unlink()
    before = path.read_bytes() if path.exists() else None
    project = Project.open(project.path)
    data = TrainingData.of(project)
    left = {c.name for c in (*data.labelled, *data.unlabelled, *data.validation)}
    assert left == {"l1", "l2", "u1", "u2", "v"} - {name}
    seen = _train(project)
    warned = _warnings(seen)
    assert len(warned) == 1
    assert f"volume {name} is set aside" in warned[0]
    assert str(path.parent if part.endswith("zarr.json") else path.parents[3]) in warned[0]
    assert isinstance(seen[-1], events.Ended)
    assert (seen[-1].reason, seen[-1].step) == ("finished", 3)
    assert (path.read_bytes() if path.exists() else None) == before, "damage is left for a person to look at"
    answer = call("inspect", project.path, "--verify", "--json")
    assert (answer.code, name in answer.err) == (4, True)


STREAMED = config.build(
    TINY,
    {"iterations": 8, "engine": {"cohort": "streamed", "validate_every": 3, "checkpoint_every": 4}},
)


@pytest.mark.usefixtures("leaves_damage")
@pytest.mark.parametrize("how", ["flip", "missing"])
@pytest.mark.parametrize("name", ["l1", "u1", "v"])
def test_volumes_that_are_not_held_in_memory_are_set_aside_when_their_damage_is_met(
    project: Project, name: str, how: str
) -> None:
    """Read chunk by chunk while training runs, damage shows late; the run goes on, and does so again when resumed."""
    path = project.volumes[name].path / IMAGE
    flip(path, 4 * path.stat().st_size) if how == "flip" else path.unlink()
    run = RunFolder.create(project.path, STREAMED)
    seen = list(Trainer.of(project, STREAMED, run.path))
    (warned,) = _warnings(seen)
    assert f"volume {name} is set aside" in warned
    assert f"{name}.zarr" in warned
    assert "c/0/0/0" in warned
    steps = [event.step for event in seen if isinstance(event, events.Stepped)]
    assert steps == list(range(1, 9))
    validations = [event for event in seen if isinstance(event, events.Validated)]
    assert len(validations) == (0 if name == "v" else 2)
    assert isinstance(seen[-1], events.Ended)
    assert (seen[-1].reason, seen[-1].step) == ("finished", 8)

    longer = STREAMED.model_copy(update={"iterations": 12})
    again = list(Trainer.of(project, longer, run.path))
    assert f"volume {name} is set aside" in _warnings(again)[-1]
    assert isinstance(again[-1], events.Ended)
    assert (again[-1].reason, again[-1].step) == ("finished", 12)


@pytest.mark.usefixtures("leaves_damage")
def test_where_the_last_labelled_volume_turns_out_damaged_the_run_ends_with_what_it_has(
    project: Project,
) -> None:
    (project.volumes["l1"].path / IMAGE).unlink()
    project.set_role("l2", "test")
    run = RunFolder.create(project.path, STREAMED)
    with pytest.raises(CorruptData, match=r"l1\.zarr.*c/0/0/0"):
        list(Trainer.of(Project.open(project.path), STREAMED, run.path))
    assert run.status().reason == "failed"
    assert checkpoint.latest(run.checkpoints)[0] is not None


@pytest.mark.usefixtures("leaves_damage")
def test_training_without_any_sound_labelled_volume_says_so(project: Project) -> None:
    for name in ("l1", "l2"):
        (project.volumes[name].path / IMAGE).unlink()
    with pytest.raises(CorruptData, match=r"no labelled volume can be read.*l1.*c/0/0/0 is missing"):
        TrainingData.of(project)
