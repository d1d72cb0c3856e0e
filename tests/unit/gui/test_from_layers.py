"""Layers become volumes: voxels where they were, labels with their image, values as the user means them."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_crln import durable
from napari_crln.errors import (
    CrlnError,
    GridMismatch,
    InvalidIntensity,
    InvalidLabel,
    ProjectError,
    UsageError,
)
from napari_crln.gui import readers, sample_data
from napari_crln.gui.from_layers import (
    create_project,
    layer_states,
    left_out,
    plan_from_layers,
    plan_volumes,
    renamed,
)
from napari_crln.gui.layer_classes import class_table, propose_coverage
from napari_crln.gui.layer_data import placement
from napari_crln.gui.tags import tag
from napari_crln.volume import nifti
from napari_crln.volume.project import Project

sys.path.insert(0, str(Path(__file__).parent))
from layer_helpers import PLACEMENTS, assert_same_world, world_values

layers = pytest.importorskip("napari.layers")
pytestmark = [pytest.mark.gui, pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")]
SHAPE = (4, 5, 6)
MM = ("mm",) * 3


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "sync", lambda path: None)


@pytest.fixture
def voxels() -> NDArray[np.int16]:
    return np.random.default_rng(0).permutation(4 * 5 * 6).reshape(SHAPE).astype(np.int16)


def _ids(*values: int, shape: tuple[int, ...] = SHAPE) -> NDArray[np.uint8]:
    return np.random.default_rng(1).choice(values, shape).astype(np.uint8)


def _shown(volume: Any, values: NDArray[Any] | None = None) -> Any:
    """A volume of a project as a layer again."""
    data = volume.read_image() if values is None else values
    return layers.Image(data, **placement(volume.grid))


# --- geometry: layer → project → NIfTI → layer


@pytest.mark.parametrize("name", PLACEMENTS)
def test_voxels_keep_place_and_value_to_the_project_and_back(
    name: str, tmp_path: Path, voxels: NDArray[np.int16]
) -> None:
    image = layers.Image(voxels, name="a", **PLACEMENTS[name])
    labels = layers.Labels(_ids(0, 1, 2), name="a labels", **PLACEMENTS[name])
    volume = create_project(tmp_path / "p.crln", plan_from_layers([image, labels])).volumes["a"]
    assert volume.image.dtype == np.int16
    assert_same_world(world_values(image), world_values(_shown(volume)))
    annotation = volume.read_annotation().astype(int) - 1
    assert_same_world(world_values(labels), world_values(_shown(volume, annotation)))
    nifti.write_image(tmp_path / "b.nii.gz", volume.read_image(), volume.source)
    data, kwargs, _ = readers.read(str(tmp_path / "b.nii.gz"))[0]
    assert_same_world(world_values(image), world_values(layers.Image(data, **kwargs)))


def test_results_go_back_to_the_file_that_a_layer_came_from(
    tmp_path: Path, voxels: NDArray[np.int16]
) -> None:
    import nibabel as nib

    affine = np.array([[0, -2.0, 0, 7], [1, 0, 0, 8], [0, 0, -3, 9], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")
    data, kwargs, _ = readers.read(str(tmp_path / "a.nii.gz"))[0]
    labels = layers.Labels(_ids(0, 1, shape=data.shape), name="a seg", affine=kwargs["affine"], units=MM)
    project = create_project(tmp_path / "p.crln", plan_from_layers([layers.Image(data, **kwargs), labels]))
    volume = project.volumes["a"]
    nifti.write_image(tmp_path / "b.nii.gz", volume.read_image(), volume.source)
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii.gz").affine, affine)
    np.testing.assert_array_equal(nib.load(tmp_path / "b.nii.gz").get_fdata(), voxels)


def test_micrometres_become_millimetres(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    plan = plan_from_layers([layers.Image(voxels, scale=(2, 0.5, 0.5), units=("um",) * 3)])
    np.testing.assert_allclose(plan[0].image.grid.spacing, (0.002, 0.0005, 0.0005))


def test_axis_labels_name_the_axes(voxels: NDArray[np.int16]) -> None:
    layer = layers.Image(voxels, scale=(1, 2, 3), units=MM, axis_labels=("x", "y", "z"))
    plan = plan_from_layers([layer])
    assert plan[0].image.grid.shape == SHAPE[::-1]
    np.testing.assert_allclose(plan[0].image.grid.spacing, (3, 2, 1))
    np.testing.assert_array_equal(plan[0].image.ras.voxels, voxels.T)


def test_single_leading_axes_are_dropped(voxels: NDArray[np.int16]) -> None:
    layer = layers.Image(
        voxels[None, None], scale=(9, 9, 1, 2, 3), translate=(7, 7, 4, 5, 6), units=("s", "s", *MM)
    )
    grid = plan_from_layers([layer])[0].image.grid
    np.testing.assert_allclose(grid.affine, [[3, 0, 0, 6], [0, 2, 0, 5], [0, 0, 1, 4], [0, 0, 0, 1]])


def _dask(array: NDArray[Any], path: Path) -> Any:
    import dask.array as da

    return da.from_array(array, chunks=3)


def _zarr(array: NDArray[Any], path: Path) -> Any:
    import zarr

    stored = zarr.create_array(path / "z.zarr", shape=array.shape, dtype=array.dtype, chunks=(3, 3, 3))
    stored[...] = array
    return stored


def _memmap(array: NDArray[Any], path: Path) -> Any:
    mapped = np.memmap(path / "m.bin", array.dtype, "w+", shape=array.shape)
    mapped[...] = array
    return mapped


@pytest.mark.parametrize("make", [_dask, _zarr, _memmap])
def test_lazy_arrays_become_the_same_volume(
    make: Callable[..., Any], tmp_path: Path, voxels: NDArray[np.int16]
) -> None:
    where = PLACEMENTS["flipped"] | {"contrast_limits": (0, 120)}
    plain = plan_from_layers([layers.Image(voxels, name="plain", **where)])
    lazy = plan_from_layers([layers.Image(make(voxels, tmp_path), name="lazy", **where)])
    table = class_table(plan_from_layers([layers.Image(voxels), layers.Labels(_ids(0, 1))]), "dense")
    project = create_project(tmp_path / "p.crln", [*plain, *lazy], classes=table)
    one, two = project.volumes.values()
    np.testing.assert_array_equal(one.read_image(), two.read_image())
    assert one.grid == two.grid
    assert one.normalisation == two.normalisation


def test_planning_reads_no_voxel(voxels: NDArray[np.int16]) -> None:
    import dask
    import dask.array as da

    def _fail(*_: Any) -> None:
        raise AssertionError("a voxel was read")

    lazy = da.from_array(voxels, chunks=3)
    layer = layers.Image(lazy, contrast_limits=(0, 9), cache=False)
    labels = layers.Labels(lazy.astype(np.uint8), cache=False)
    with dask.config.set(scheduler=_fail):
        assert plan_from_layers([layer, labels])[0].role == "labelled"


def test_of_a_multiscale_layer_the_finest_level_is_taken(tmp_path: Path) -> None:
    fine = np.random.default_rng(0).integers(0, 9, (8, 8, 8), np.uint8)
    image = layers.Image([fine, fine[::2, ::2, ::2]], multiscale=True, scale=(2, 1, 1), units=MM)
    plan = plan_from_layers([image])
    np.testing.assert_array_equal(plan[0].image.ras.voxels, fine)
    assert plan[0].image.grid.spacing == (2, 1, 1)


@pytest.mark.parametrize(
    ("given", "error", "word"),
    [
        (
            lambda: [layers.Image(np.zeros((4, 5, 6, 3), np.uint8), rgb=True, name="photo")],
            InvalidIntensity,
            "photo",
        ),
        (lambda: [layers.Image(np.zeros((2, 4, 5, 6)))], InvalidIntensity, "Split"),
        (lambda: [layers.Image(np.zeros((5, 6)))], InvalidIntensity, "three axes"),
        (lambda: [layers.Image(np.zeros(SHAPE), units=("pixel", "um", "um"))], GridMismatch, "pixel"),
        (lambda: [layers.Labels(_ids(0, 1))], UsageError, "no image"),
        (lambda: [layers.Points(np.zeros((1, 3)))], UsageError, "no image"),
    ],
)
def test_what_is_no_volume_is_refused(given: Callable[[], Any], error: type[CrlnError], word: str) -> None:
    with pytest.raises(error, match=word):
        plan_from_layers(given())


# --- which labels belong to which image


def _pairs(images: list[str], labels: list[str]) -> dict[str, str | None]:
    made = [layers.Image(np.zeros(SHAPE), name=name) for name in images]
    made += [layers.Labels(_ids(0, 1), name=name) for name in labels]
    return {v.image.name: v.labels.name if v.labels else None for v in plan_from_layers(made)}


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (["a"], ["Labels"], {"a": "Labels"}),
        (["a", "b"], ["b_seg"], {"a": None, "b": "b_seg"}),
        (["liver 1", "liver 10"], ["liver 10 labels", "liver 1-mask"], {"liver 1": "liver 1-mask", "liver 10": "liver 10 labels"}),
        (["case_0000", "other_0000"], ["case"], {"case_0000": "case", "other_0000": None}),
        (["brain", "brain b"], ["Brain annotation"], {"brain": "Brain annotation", "brain b": None}),
        (["a", "b"], [], {"a": None, "b": None}),
    ],
)  # fmt: skip
def test_names_pair_labels_with_images_of_the_same_grid(
    images: list[str], labels: list[str], expected: dict[str, str | None]
) -> None:
    assert _pairs(images, labels) == expected


def test_the_grid_decides_before_the_name() -> None:
    here = layers.Image(np.zeros(SHAPE), name="here")
    there = layers.Image(np.zeros(SHAPE), name="there", translate=(50, 0, 0))
    labels = layers.Labels(_ids(0, 1), name="here labels", translate=(50, 0, 0))
    roles = {v.name: v.role for v in plan_from_layers([here, there, labels])}
    assert roles == {"here": "unlabelled", "there": "labelled"}


@pytest.mark.parametrize(
    ("images", "labels", "error"),
    [(["a", "b"], ["Labels"], InvalidLabel), (["a"], ["a labels", "a mask"], InvalidLabel)],
)
def test_an_unclear_pair_is_an_error(images: list[str], labels: list[str], error: type[CrlnError]) -> None:
    with pytest.raises(error, match="name"):
        _pairs(images, labels)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (["a", "b"], "Labels"),
        (["a", "a"], "a labels"),
        (["case_0000", "case_0001"], "case"),
        (["case_0000", "case_0001"], "Labels"),
        (["mask", "labels"], "gt"),
    ],
)
def test_who_renames_as_advised_gets_a_pair(images: list[str], labels: str) -> None:
    for _ in range(3):
        try:
            pairs = _pairs(images, [labels])
        except InvalidLabel as error:
            what, name = re.search(r'Rename (it|the image)\b.*"(.+)"', str(error)).groups()
            images, labels = (images, name) if what == "it" else ([images[0], name], labels)
        else:
            assert labels in pairs.values()
            return
    pytest.fail(f"the advice leads nowhere: {images}, {labels}")


def test_labels_of_no_image_are_an_error_with_both_places() -> None:
    made = [
        layers.Image(np.zeros(SHAPE), name="a"),
        layers.Labels(_ids(0, 1, shape=(4, 5, 7)), name="a labels"),
    ]
    with pytest.raises(GridMismatch, match=r"\(4, 5, 7\).*\(4, 5, 6\)"):
        plan_from_layers(made)


def test_previews_and_predictions_of_ours_are_left_out() -> None:
    made = [
        layers.Image(np.zeros(SHAPE), name="a"),
        layers.Labels(_ids(0, 1), name="p", metadata={"crln": {"content": "prediction"}}),
        layers.Labels(_ids(0, 1), name="crln: rectified"),
    ]
    assert [v.labels for v in plan_from_layers(made)] == [None]


def _panels(project: Project, name: str) -> list[Any]:
    """What the panel shows of a volume; napari numbers a name that is there already."""
    volume, where = project.volume(name), placement(project.volume(name).grid)
    shown = layers.Image(volume.read_image(), name=f"{name} [1]", metadata=tag("image", volume=name), **where)
    painted = volume.read_annotation() if volume.has_annotation else np.zeros(volume.grid.shape, np.uint8)
    about = tag("annotation", project=str(project.path), volume=name, revision=1)
    return [shown, layers.Labels(painted, name=f"{name} annotation", metadata=about, **where)]


@pytest.mark.parametrize("where", PLACEMENTS)
def test_what_the_panel_shows_is_left_out_beside_the_layers_that_it_was_made_of(
    where: str, tmp_path: Path, voxels: NDArray[np.int16]
) -> None:
    placed = PLACEMENTS[where]
    mine = [layers.Image(voxels, name=name, **placed) for name in ("a", "b: 2")]
    mine.append(layers.Labels(_ids(0, 1), name="a labels", **placed))
    project = create_project(tmp_path / "p.crln", plan_from_layers(mine))
    shown = [layer for name in project.volumes for layer in _panels(project, name)]
    states = layer_states([*mine, *shown, layers.Image(voxels, name="c", **placed)])
    plan = plan_volumes(states)
    assert [(v.image.name, v.labels and v.labels.name) for v in plan] == [
        ("a", "a labels"), ("b: 2", None), ("c", None),
    ]  # fmt: skip
    assert left_out(states, plan).endswith("same images: 'a annotation', 'b_ 2 annotation'.")


def test_what_the_panel_shows_is_taken_where_it_is_all_that_shows_it(
    tmp_path: Path, voxels: NDArray[np.int16]
) -> None:
    mine = [layers.Image(voxels, name="a"), layers.Labels(_ids(0, 1), name="a labels")]
    shown = _panels(create_project(tmp_path / "p.crln", plan_from_layers(mine)), "a")
    elsewhere = layers.Image(voxels, name="a", translate=(50, 0, 0))
    other = layers.Image(voxels, name="c")
    for given in (shown, [*shown, other], [*shown, elsewhere]):
        states = layer_states(given)
        plan = plan_volumes(states)
        assert [v.labels and v.labels.name for v in plan] == ["a annotation", *[None] * (len(given) - 2)]
        assert left_out(states, plan) == ""


def test_names_become_plain_and_unique() -> None:
    made = [layers.Image(np.zeros(SHAPE), name=n) for n in ("a/b: [1]", "a_b_ 1", "A_B_1", "…")]
    names = [v.name for v in plan_from_layers(made)]
    assert len({n.casefold() for n in names}) == len(names)
    assert all("/" not in n and ":" not in n for n in names)


# --- what values mean


def _one(ids: NDArray[Any], **kwargs: Any) -> list[Any]:
    image = np.random.default_rng(0).random(ids.shape, np.float32)
    return plan_from_layers([layers.Image(image, name="v"), layers.Labels(ids, name="v labels", **kwargs)])


def test_dense_zero_is_background(tmp_path: Path) -> None:
    ids = _ids(0, 3, 7)
    project = create_project(tmp_path / "p", _one(ids), "dense")
    assert [c.source_id for c in project.classes] == [0, 3, 7]
    np.testing.assert_array_equal(project.volumes["v"].read_annotation(), np.searchsorted([0, 3, 7], ids) + 1)
    assert project.volumes["v"].coverage == "dense"


def test_sparse_zero_is_not_annotated(tmp_path: Path) -> None:
    ids = _ids(0, 3, 7)
    none = create_project(tmp_path / "p", _one(ids), "sparse").volumes["v"]
    np.testing.assert_array_equal(
        none.read_annotation(), np.choose(np.searchsorted([0, 3, 7], ids), [0, 2, 3])
    )
    some = create_project(tmp_path / "q", _one(ids), "sparse", background=7).volumes["v"]
    np.testing.assert_array_equal(
        some.read_annotation(), np.choose(np.searchsorted([0, 3, 7], ids), [0, 2, 1])
    )
    assert {none.coverage, some.coverage} == {"sparse"}


def test_zero_cannot_be_background_of_sparse_labels() -> None:
    with pytest.raises(InvalidLabel, match="not annotated"):
        class_table(_one(_ids(0, 1)), "sparse", background=0)


def test_names_and_colours_come_from_the_layer() -> None:
    features = {"index": [0, 2, 5], "class": ["nothing", "aorta", "valve"]}
    colours = {0: "transparent", 2: "#ff0000", 5: "#0080ff", None: "transparent"}
    table = class_table(_one(_ids(0, 2), features=features, colormap=colours), "dense")
    assert [(c.name, c.source_id) for c in table] == [("background", 0), ("aorta", 2), ("valve", 5)]
    assert [c.colour for c in table][1:] == ["#ff0000", "#0080ff"]


@pytest.mark.parametrize("nothing", [np.nan, None, "-", np.inf])
def test_a_row_without_a_value_names_nothing(nothing: Any) -> None:
    features = {"index": [0, 2, nothing], "class": ["nothing", "aorta", "valve"]}
    table = class_table(_one(_ids(0, 2, 5), features=features), "dense")
    assert [c.name for c in table] == ["background", "aorta", "class 5"]


def test_layers_that_name_a_value_differently_are_refused() -> None:
    made = [layers.Image(np.random.default_rng(0).random(SHAPE), name=n) for n in "ab"]
    made += [
        layers.Labels(_ids(0, 1), name=f"{n} labels", features={"index": [1], "class": [c]})
        for n, c in zip("ab", ("liver", "spleen"), strict=True)
    ]
    with pytest.raises(InvalidLabel, match=r"liver.*spleen"):
        class_table(plan_from_layers(made), "dense")


def test_empty_labels_make_an_unlabelled_volume(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    made = [layers.Image(voxels, name="a"), layers.Image(voxels, name="b")]
    made += [layers.Labels(_ids(0, 1), name="a labels"), layers.Labels(np.zeros(SHAPE, int), name="b labels")]
    project = create_project(tmp_path / "p", plan_from_layers(made))
    assert {v.name: (v.role, v.has_annotation) for v in project.volumes.values()} == {
        "a": ("labelled", True),
        "b": ("unlabelled", False),
    }


def test_nothing_painted_at_all_says_what_to_do(voxels: NDArray[np.int16]) -> None:
    with pytest.raises(InvalidLabel, match="Paint"):
        class_table(plan_from_layers([layers.Image(voxels)]), "dense")


def test_a_failure_leaves_no_project(tmp_path: Path, voxels: NDArray[np.int16]) -> None:
    bad = np.full(SHAPE, np.nan, np.float32)
    bad[0] = 1
    plan = [*_one(_ids(0, 1)), *plan_from_layers([layers.Image(bad, name="bad", contrast_limits=(0, 1))])]
    with pytest.raises(InvalidIntensity, match="bad"):
        create_project(tmp_path / "p.crln", plan)
    assert not list(tmp_path.iterdir())
    (tmp_path / "p.crln").mkdir()
    with pytest.raises(ProjectError, match="exists"):
        create_project(tmp_path / "p.crln", _one(_ids(0, 1)))


def test_roles_can_be_chosen(tmp_path: Path) -> None:
    plan = [dataclasses.replace(_one(_ids(0, 1))[0], role="validation")]
    seen: list[tuple[int, int, str]] = []
    project = create_project(tmp_path / "p", plan, progress=lambda *at: seen.append(at))
    assert project.volumes["v"].role == "validation"
    assert seen == [(1, 1, "v")]


# --- dense or sparse


def _block(shape: tuple[int, int, int] = (20, 20, 20)) -> NDArray[np.uint8]:
    ids = np.zeros(shape, np.uint8)
    ids[4:14, 5:15, 3:16] = 1
    return ids


def _slices() -> NDArray[np.uint8]:
    ids = _block()
    kept = np.zeros_like(ids)
    for index in (5, 9, 12):
        kept[index] = ids[index]
    return kept


def _sides() -> NDArray[np.uint8]:
    """Two organs side by side: a gap, but no single slices."""
    ids = _block()
    ids[:, :, 8:12] = 0
    return ids


def _dots() -> NDArray[np.uint8]:
    ids = np.zeros((20, 20, 20), np.uint8)
    ids[3:6, 3:6, 3:6] = 1
    return ids


@pytest.mark.parametrize(
    ("ids", "expected"),
    [(_block(), "dense"), (_sides(), "dense"), (_slices(), "sparse"), (_slices().transpose(2, 0, 1), "sparse"), (_dots(), "sparse")],
)  # fmt: skip
def test_coverage_is_proposed_from_what_is_painted(ids: NDArray[np.uint8], expected: str) -> None:
    proposal = propose_coverage(_one(ids))
    assert proposal is not None
    assert proposal.coverage == expected
    assert proposal.unlabelled == pytest.approx((ids == 0).mean())
    assert proposal.reason


def test_a_value_named_background_tells_sparse_labels() -> None:
    proposal = propose_coverage(_one(_block(), features={"index": [1, 2], "class": ["Background", "liver"]}))
    assert proposal is not None
    assert (proposal.coverage, proposal.background) == ("sparse", 1)


def test_without_labels_there_is_nothing_to_ask(voxels: NDArray[np.int16]) -> None:
    assert propose_coverage(plan_from_layers([layers.Image(voxels)])) is None


def test_labels_in_which_nothing_is_painted_count_as_none(voxels: NDArray[np.int16], tmp_path: Path) -> None:
    empty = layers.Labels(np.zeros(voxels.shape, np.uint8), name="labels")
    plan = plan_from_layers([layers.Image(voxels, name="image"), empty])
    assert propose_coverage(plan) is None, "there is nothing to ask"
    with pytest.raises(InvalidLabel, match=r"nothing is painted.*Paint"):
        create_project(tmp_path / "p.crln", plan)
    far = {"scale": (2, 2, 2), "units": MM}
    more = [layers.Image(_block(), name="far", **far), layers.Labels(_block(), name="far labels", **far)]
    both = propose_coverage(plan_from_layers([layers.Image(voxels, name="image"), empty, *more]))
    assert both is not None
    assert both.unlabelled == (_block() == 0).mean()


def test_a_name_that_had_to_be_changed_is_told(voxels: NDArray[np.int16]) -> None:
    scales = {"Maus Nr 2 Schädel (Süd)": 1, "a": 2, "A": 3}
    plan = plan_from_layers(
        [layers.Image(voxels, name=n, scale=(s,) * 3, units=MM) for n, s in scales.items()]
    )
    said = renamed(plan)
    assert f"'Maus Nr 2 Schädel (Süd)' is the volume '{plan[0].name}'" in said
    assert f"'A' is the volume '{plan[2].name}'" in said
    assert "'a'" not in said
    assert renamed(plan[1:2]) == ""


# --- sample data: two clicks from training


def test_sample_data_becomes_a_project_without_a_question(tmp_path: Path) -> None:
    made = [getattr(layers, kind.title())(data, **kwargs) for data, kwargs, kind in sample_data.phantoms()]
    plan = plan_from_layers(made)
    proposal = propose_coverage(plan)
    assert proposal is not None
    assert proposal.coverage == "dense"
    project: Project = create_project(tmp_path / "p.crln", plan, proposal.coverage)
    assert project.classes.names == ("background", "body", "lobe", "vessel")
    assert 0 < len(project.with_role("labelled")) < len(project.with_role("unlabelled"))
