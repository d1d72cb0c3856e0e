"""Anchors come back to the very voxels that they were: volumes of voxel numbers go through a step's views."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_crln import config
from napari_crln.engine import anchors as anchors_module
from napari_crln.engine.anchors import AnchorTrace
from napari_crln.engine.cohort import Case
from napari_crln.engine.data import Batches, TrainingData
from napari_crln.method.cps import Sample
from napari_crln.method.learner import Randomness
from napari_crln.method.views import apply_strong, apply_weak, strong_draws, weak_draws
from napari_crln.types import IGNORE
from napari_crln.volume.intensity import Normalisation

PATCH = (16, 16, 16)
SHAPES = {"a": (18, 20, 22), "b": (16, 16, 30), "c": (20, 18, 17), "small": (12, 20, 13)}
SETTINGS = config.build(
    {
        "batches": {"patch": PATCH, "labelled": 2, "unlabelled": 2},
        "method": {
            "views": {"minmax": False, "weak_brightness": [1, 1], "cutmix": 1.0, "strong_flip_p": 1.0}
        },
    }
)
AS_IT_IS = Normalisation(kind="none", low=-1.0, high=1e6, shift=0.0, scale=1.0)


def _case(name: str, labelled: bool) -> Case:
    """Intensities are voxel numbers, of every volume others."""
    first = 10_000 * sorted(SHAPES).index(name)
    image = np.arange(first, first + np.prod(SHAPES[name]), dtype=np.float32).reshape(SHAPES[name])
    return Case(name, image, AS_IT_IS, np.zeros(SHAPES[name], np.int16) if labelled else None)


@pytest.fixture
def batches() -> Batches:
    labelled, unlabelled = [_case(n, True) for n in ("a", "b")], [_case(n, False) for n in ("c", "small")]
    return Batches(TrainingData(("background", "one"), labelled, unlabelled), SETTINGS, torch.device("cpu"))


def _as_seen(batches: Batches, step: int) -> torch.Tensor:
    """The numbers of the voxels that the student saw in a step, (B, D, H, W); IGNORE where a view invented them."""
    random, views = Randomness(SETTINGS.seed, step), SETTINGS.method.views
    batch = batches.at(random)
    of_l, of_u = weak_draws(random, 2, 2, PATCH[1:], views)
    number_l, number_u = batch.x_l[:, 0].long(), torch.where(batch.valid_u, batch.x_u[:, 0].long(), IGNORE)
    _, seen_l = apply_weak(of_l, batch.x_l, number_l, views)
    _, weak_u = apply_weak(of_u, batch.x_u, number_u, views)
    _, seen_u, _ = apply_strong(
        strong_draws(random, 2, PATCH[1:], views), batch.x_u, weak_u, weak_u.float(), views
    )
    return torch.cat([seen_l, seen_u])


def _drawn(seen: torch.Tensor, count: int = 200) -> Sample:
    """Some voxels as anchors of class 0, and fewer, with filler, of class 1."""
    rng = np.random.default_rng(0)
    index = torch.from_numpy(rng.choice(np.flatnonzero(seen.numpy() != IGNORE), (2, count), replace=False))
    real = torch.ones(2, count, dtype=torch.bool)
    real[1, count // 2 :] = False
    return Sample(index, real)


@pytest.mark.parametrize("step", range(4))
def test_anchors_are_the_voxels_that_they_were(batches: Batches, step: int) -> None:
    trace, seen = AnchorTrace(batches, SETTINGS), _as_seen(batches, step)
    anchors = _drawn(seen)
    trace.remember(step, anchors)
    truth, found = {}, {}
    for name, shape in SHAPES.items():
        first = 10_000 * sorted(SHAPES).index(name)
        for k in (0, 1):
            numbers = seen.flatten()[anchors.index_Ck[k][anchors.real_Ck[k]]].numpy()
            own = numbers[(numbers >= first) & (numbers < first + np.prod(shape))] - first
            truth[name, k] = sorted(
                zip(*(axis.tolist() for axis in np.unravel_index(own, shape)), strict=True)
            )
        record = trace.within(name, shape)
        points = () if record is None else record.points
        for k in (0, 1):
            found[name, k] = sorted(point[1:] for point in points if point[0] == k)
    assert found == truth
    assert sum(map(len, found.values())) == 300


def test_the_newest_step_that_saw_the_volume_is_told(batches: Batches) -> None:
    trace = AnchorTrace(batches, SETTINGS)
    steps = range(12)
    for step in steps:
        trace.remember(step, _drawn(_as_seen(batches, step)))
    for name, shape in SHAPES.items():
        newest = max(step for step in steps if name in _volumes(batches, step))
        record = trace.within(name, shape)
        assert record is not None
        assert record.step == newest + 1


def _volumes(batches: Batches, step: int) -> set[str]:
    of_l, of_u = batches.draws(Randomness(SETTINGS.seed, step))
    return {batches.labelled.names[i] for i, _ in of_l} | {batches.unlabelled.names[i] for i, _ in of_u}


def test_a_volume_that_no_step_saw_and_a_method_without_anchors_have_none(batches: Batches) -> None:
    trace = AnchorTrace(batches, SETTINGS)
    trace.remember(0, None)
    assert trace.within("a", SHAPES["a"]) is None
    trace.remember(1, _drawn(_as_seen(batches, 1)))
    assert trace.within("validation", (20, 20, 20)) is None


def test_their_number_is_bounded(batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors_module, "MAX_ANCHORS", 10)
    trace = AnchorTrace(batches, SETTINGS)
    for step in range(4):
        trace.remember(step, _drawn(_as_seen(batches, step)))
    records = [trace.within(name, shape) for name, shape in SHAPES.items()]
    assert max(len(record.points) for record in records if record is not None) == 10
