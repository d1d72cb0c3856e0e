"""Project and run folders as layers: the right volumes, lazily, in their place, and tagged for the panel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_crln import durable
from napari_crln.config import build, load_preset
from napari_crln.engine.generations import Generations
from napari_crln.errors import ProjectError
from napari_crln.gui.project_reader import get_reader, read_project, read_run
from napari_crln.gui.stored_layers import annotation_layer
from napari_crln.gui.tags import tag_of
from napari_crln.previews import FocusRecord, MapRecord, PreviewRecord, exact, symmetric
from napari_crln.run.folder import RunFolder
from napari_crln.types import IGNORE
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.project import Project

SHAPE = (5, 6, 7)
GRID = Grid(SHAPE, np.array([[0.5, 0, 0, 9], [0, 0.6, 0, 8], [0, 0, 2, 7], [0, 0, 0, 1.0]]))


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "sync", lambda path: None)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Unlabelled u1 and u2, sparsely labelled l1, with a prediction of u1."""
    project = Project.create(tmp_path / "p.crln", ClassTable.from_ids({"background": 0, "organ": 5}))
    rng = np.random.default_rng(0)
    for name in ("u1", "u2"):
        project.add(name, rng.integers(0, 99, SHAPE, np.uint8), GRID, "unlabelled")
    annotation = rng.integers(0, 3, SHAPE, np.uint8)
    project.add("l1", rng.integers(0, 99, SHAPE, np.uint8), GRID, "labelled", annotation, coverage="sparse")
    project.volumes["u1"].write_prediction(rng.integers(0, 2, SHAPE, np.uint8))
    return project


def _by_name(layers: list[Any]) -> dict[str, Any]:
    return {kwargs["name"]: (data, kwargs, kind) for data, kwargs, kind in layers}


def test_a_project_opens_its_first_labelled_and_first_unlabelled_volume(project: Project) -> None:
    layers = _by_name(read_project(str(project.path)))
    assert list(layers) == ["u1", "u1 prediction", "l1", "l1 annotation"]
    assert [name for name, (_, kwargs, _) in layers.items() if kwargs["visible"]] == ["l1", "l1 annotation"]
    np.testing.assert_array_equal(np.asarray(layers["l1"][0]), project.volumes["l1"].read_image())
    for _, kwargs, _ in layers.values():
        tag = tag_of(kwargs["metadata"])
        assert Path(tag["project"]) == project.path.resolve()
        assert tag["volume"] in project.volumes
        np.testing.assert_allclose(
            kwargs["affine"], [[2, 0, 0, 7], [0, 0.6, 0, 8], [0, 0, 0.5, 9], [0, 0, 0, 1]]
        )


def test_labels_have_the_classes_colours_and_names(project: Project) -> None:
    layers = _by_name(read_project(str(project.path)))
    organ = project.classes[1].colour
    _, prediction, _ = layers["u1 prediction"]
    assert prediction["colormap"][1] == organ
    assert prediction["features"]["class"] == ["background", "organ"]
    _, annotation, _ = layers["l1 annotation"]
    assert annotation["colormap"][2] == organ
    assert annotation["features"]["class"] == ["not annotated", "background", "organ"]
    assert tag_of(annotation["metadata"])["coverage"] == "sparse"


def test_opening_reads_no_image_and_no_prediction(project: Project) -> None:
    for array in ("u1.zarr/0", "u1.zarr/labels/prediction/0", "l1.zarr/0"):
        for chunk in (project.path / "volumes" / array / "c").rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(b"damaged")
    layers = read_project(str(project.path))
    with pytest.raises(Exception, match=r"."):
        np.asarray(layers[0][0])


def test_a_large_volume_opens_as_a_pyramid(project: Project) -> None:
    image = np.arange(140 * 4 * 4, dtype=np.uint16).reshape(140, 4, 4)
    project.add(
        "long", image, Grid.from_spacing(image.shape), "validation", np.full(image.shape, 2, np.uint8)
    )
    project.set_role("l1", "unlabelled")
    project.set_role("u1", "unlabelled")
    wide = Project.create(project.path.parent / "q.crln", project.classes)
    wide.add("long", image, Grid.from_spacing(image.shape), "unlabelled")
    levels = read_project(str(wide.path))[0][0]
    assert isinstance(levels, list)
    assert levels[0].shape == image.shape
    assert max(levels[-1].shape) <= 128
    np.testing.assert_array_equal(np.asarray(levels[0]), image)


@pytest.mark.gui
def test_napari_takes_the_layers(project: Project) -> None:
    layers = pytest.importorskip("napari.layers")
    for data, kwargs, kind in read_project(str(project.path)):
        layer = getattr(layers, kind.title())(data, **kwargs)
        assert tuple(map(str, layer.units)) == ("millimeter",) * 3


def test_what_is_painted_on_the_annotation_layer_is_what_is_stored(project: Project) -> None:
    volume = project.volumes["l1"]
    data, _, _ = annotation_layer(project, volume)
    np.testing.assert_array_equal(data, volume.read_annotation())
    data[0] = 2
    data[1] = 0
    volume.write_annotation(data, "sparse")
    targets = volume.read_targets()
    assert (targets[0] == 1).all()
    assert (targets[1] == IGNORE).all()


def test_a_volume_without_annotation_gives_an_empty_sparse_one(project: Project) -> None:
    data, kwargs, _ = annotation_layer(project, project.volumes["u1"])
    assert not data.any()
    assert (tag_of(kwargs["metadata"])["coverage"], tag_of(kwargs["metadata"])["revision"]) == ("sparse", 0)


def test_an_empty_project_says_so(tmp_path: Path) -> None:
    path = Project.create(tmp_path / "p.crln", ClassTable.from_ids({"background": 0, "organ": 1})).path
    with pytest.raises(ProjectError, match="no volume"):
        read_project(str(path))


def test_other_folders_and_files_are_left_to_other_readers(tmp_path: Path) -> None:
    (tmp_path / "a.crln").touch()
    for path in (str(tmp_path), str(tmp_path / "a.crln"), [str(tmp_path)] * 2, []):
        assert get_reader(path) is None


# --- runs


@pytest.fixture
def run(project: Project) -> RunFolder:
    return RunFolder.create(project.path, build(load_preset("hippocampus")))


def test_a_run_without_previews_opens_as_its_projects_volume(project: Project, run: RunFolder) -> None:
    assert get_reader(str(run.path)) is read_run
    layers = _by_name(read_run(str(run.path)))
    assert list(layers) == ["l1", "l1 annotation"]
    assert {tag_of(kwargs["metadata"])["run"] for _, kwargs, _ in layers.values()} == {
        str(run.path.resolve())
    }


REGION = ((1, 3), (0, 6), (0, 7))  # slices 1 and 2 of u1


def _publish(run: RunFolder, maps: dict[str, tuple[NDArray[np.uint8], Any]]) -> int:
    """A preview of REGION, as the engine writes it."""
    draft = Generations(run.path / "preview.zarr", history=2).begin((2, 6, 7))
    for name, (values, quantisation) in maps.items():
        draft.append(name, values, quantisation)
    record = PreviewRecord(
        generation=draft.generation, volume="u1", step=7, step_done=8, shape=SHAPE, region=REGION,
        spacing=GRID.spacing, classes=("background", "organ"), focus=FocusRecord(axis=0, index=1),
        maps={name: MapRecord(scale=q.scale, offset=q.offset, meaning=name) for name, (_, q) in maps.items()},
    )  # fmt: skip
    draft.publish(record)
    return draft.generation


def test_a_run_opens_as_the_maps_of_its_newest_preview_in_their_place(
    project: Project, run: RunFolder
) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, (2, 6, 7), np.uint8)
    clues = symmetric(-2, 3).quantise(rng.uniform(-2, 3, (2, 2, 6, 7)))
    _publish(run, {"prediction": (1 - labels, exact())})
    newest = _publish(run, {"prediction": (labels, exact()), "clues": (clues, symmetric(-2, 3))})
    layers = _by_name(read_run(str(run.path)))
    assert list(layers) == ["u1", "u1 prediction", "u1 clues"]
    shown, kwargs, kind = layers["u1 prediction"]
    assert kind == "labels"
    np.testing.assert_array_equal(shown[1:3], labels)
    assert not shown[[0, 3, 4]].any()
    tag = tag_of(kwargs["metadata"])
    assert (tag["generation"], tag["step"], tag["run"]) == (newest, 7, str(run.path.resolve()))
    shown, kwargs, kind = layers["u1 clues"]
    assert kind == "image"
    np.testing.assert_array_equal(shown[1:3], clues[1])  # of the first class that is not background
    assert set(np.unique(shown[[0, 3, 4]])) == {128}  # stored 0
    tag = tag_of(kwargs["metadata"])
    assert 128 * tag["scale"] + tag["offset"] == pytest.approx(0)
    np.testing.assert_allclose(kwargs["affine"], layers["u1"][1]["affine"])


def test_a_run_moved_out_of_its_project_says_so(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="project"):
        read_run(str(run.path.rename(tmp_path / "lonely")))
