from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_crln.config import RunConfig
from napari_crln.engine.cohort import Case
from napari_crln.engine.data import Batches, TrainingData
from napari_crln.errors import ProjectError
from napari_crln.method.learner import Batch, Randomness
from napari_crln.types import IGNORE, TargetDHW
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.project import Project

Settings = Callable[..., RunConfig]
CPU = torch.device("cpu")


def dense_target(case: Case) -> TargetDHW:
    target = np.zeros(case.image.shape, np.int16)
    target[2:9, 3:9, 1:8] = 2
    return target


METHODS = ("supervised", "mean-teacher", "ua-mt", "cutmix", "bcp", "crln")


def test_every_method_with_the_same_seed_sees_the_same_patches(
    training_data: TrainingData, settings: Settings
) -> None:
    def batch(method: str, seed: int = 0, step: int = 3) -> Batch:
        return Batches(training_data, settings(method), CPU).at(Randomness(seed, step))

    first = batch("crln")
    for method in METHODS:
        assert all(torch.equal(a, b) for a, b in zip(first, batch(method), strict=True))
    assert not torch.equal(first.x_l, batch("crln", seed=1).x_l)
    assert not torch.equal(first.x_l, batch("crln", step=4).x_l)


def test_shapes_and_dtypes_of_a_batch(training_data: TrainingData, settings: Settings) -> None:
    sizes = {"labelled": 3, "unlabelled": 1, "patch": [16, 16, 16]}
    x_l, y_l, x_u, valid_u = Batches(training_data, settings(batches=sizes), CPU).at(Randomness(0, 0))
    assert (x_l.shape, x_l.dtype) == ((3, 1, 16, 16, 16), torch.float32)
    assert (y_l.shape, y_l.dtype) == ((3, 16, 16, 16), torch.int16)
    assert (x_u.shape, valid_u.shape, valid_u.dtype) == ((1, 1, 16, 16, 16), (1, 16, 16, 16), torch.bool)


def test_without_unlabelled_volumes_the_labelled_serve(
    training_data: TrainingData, settings: Settings
) -> None:
    dense = replace(training_data, labelled=training_data.labelled[:1], unlabelled=())
    batches = Batches(dense, settings(), CPU)
    assert batches.unlabelled is batches.labelled
    assert batches.at(Randomness(0, 0)).valid_u.all()


def test_what_nobody_annotated_of_a_labelled_volume_serves_as_unlabelled(
    training_data: TrainingData, settings: Settings
) -> None:
    batches = Batches(training_data, settings(), CPU)
    assert batches.labelled.names == ("a", "b")
    assert batches.unlabelled.names == ("b", "c", "d"), "a is dense, b is not"


def test_what_somebody_annotated_is_not_taught_the_teachers_label(
    training_data: TrainingData, settings: Settings
) -> None:
    batches = Batches(training_data, settings(), CPU)
    annotated = np.asarray(training_data.labelled[1].target) != IGNORE
    seen = 0
    for step in range(20):
        _, of_u = batches.draws(Randomness(0, step))
        masks, own = batches.at(Randomness(0, step)).valid_u, batches.unlabelled.validity(of_u)
        for mask, valid, draw in zip(masks, own, of_u, strict=True):
            if batches.unlabelled.names[draw[0]] != "b":
                assert torch.equal(mask, valid)
                continue
            d, h, w = batches.unlabelled.corner_in_volume(draw)
            inside = np.argwhere(valid.numpy())
            there = annotated[tuple((inside + np.array((d, h, w))).T)]
            assert np.array_equal(mask.numpy()[tuple(inside.T)], ~there)
            seen += int(there.sum())
    assert seen > 0


def test_batches_after_changes_are_those_of_labels_that_were_so_from_the_start(
    training_data: TrainingData, settings: Settings
) -> None:
    """Whatever the history: what a resumed run draws is what the unbroken one draws."""
    configured = settings(batches={"foreground": 0.3})
    new = dense_target(training_data.unlabelled[0])
    a, b, c, d = *training_data.labelled, *training_data.unlabelled
    order = ("d", "a", "c", "b")
    batches = Batches(replace(training_data, order=order), configured, CPU)
    batches.relabel(batches.labelled.prepare("c", new))
    batches.unlabel("a")
    box = batches.labelled.affected("b", ((4, 5), (0, 20), (0, 22)))
    part = b.target[tuple(slice(*span) for span in box)].copy()
    part[4 - box[0][0]] = 1
    batches.relabel(batches.labelled.prepare("b", part, box))

    changed = b.target.copy()
    changed[4] = 1
    now = [replace(c, target=new), replace(b, target=changed)]
    anew = Batches(
        replace(training_data, labelled=now, unlabelled=[d, replace(a, target=None)], order=order),
        configured,
        CPU,
    )
    assert batches.labelled.names == anew.labelled.names == ("c", "b")
    assert batches.unlabelled.names == anew.unlabelled.names == ("d", "a", "b")
    for step in range(12):
        pairs = zip(batches.at(Randomness(0, step)), anew.at(Randomness(0, step)), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    assert (b.target[4] == IGNORE).all(), "the data that training began with are not written to"


def test_a_volume_that_is_complete_serves_as_unlabelled_no_more(
    training_data: TrainingData, settings: Settings
) -> None:
    batches = Batches(training_data, settings(), CPU)
    target = training_data.labelled[0].target
    batches.relabel(batches.labelled.prepare("b", target))
    assert batches.unlabelled.names == ("c", "d")
    for case in training_data.unlabelled:
        batches.relabel(batches.labelled.prepare(case.name, dense_target(case)))
    assert batches.unlabelled is batches.labelled


def test_the_last_labelled_volume_stays_without_labels(
    training_data: TrainingData, settings: Settings
) -> None:
    batches = Batches(replace(training_data, labelled=training_data.labelled[:1]), settings(), CPU)
    batches.unlabel("a")
    assert batches.labelled.names == ("a",)
    assert "a" in batches.unlabelled.names
    assert (batches.at(Randomness(0, 0)).y_l == IGNORE).all()


@pytest.fixture
def project(tmp_path, training_data: TrainingData) -> Project:  # type: ignore[no-untyped-def]
    table = ClassTable.from_ids({"background": 0, "one": 1, "two": 2})
    return Project.create(tmp_path / "p.crln", table)


def test_a_project_without_labels_is_refused(project: Project) -> None:
    with pytest.raises(ProjectError, match="no labelled volume"):
        TrainingData.of(project)


def test_targets_of_sparse_volumes_hold_ignore(training_data: TrainingData) -> None:
    target = training_data.labelled[1].target
    assert target is not None
    assert (np.asarray(target) == IGNORE).any()
