from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_crln.config import RunConfig
from napari_crln.engine.data import Batches, TrainingData
from napari_crln.errors import ProjectError
from napari_crln.method.learner import Batch, Randomness
from napari_crln.types import IGNORE
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.project import Project

Settings = Callable[..., RunConfig]
CPU = torch.device("cpu")
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
    batches = Batches(replace(training_data, unlabelled=()), settings(), CPU)
    assert batches.unlabelled is batches.labelled
    assert batches.at(Randomness(0, 0)).valid_u.all()


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
