from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from napari_crln import config
from napari_crln.engine.maps import BeliefMaps, belief_maps
from napari_crln.engine.predict import Windowing, predict_labels, predict_slabs
from napari_crln.engine.state import build_learner
from napari_crln.engine.validate import InferNetwork
from napari_crln.method.learner import Learner
from napari_crln.types import ImageDHW
from napari_crln.volume.intensity import measure
from napari_crln.volume.phantom import make_phantom

_CLASSES = 4


def _settings(**method: Any) -> config.RunConfig:
    values = {
        "network": {"base_filters": 2},
        "batches": {"patch": [16, 16, 16]},
        "method": {"rectification": {"after": 10}, **method},
    }
    return config.build(values)


def _learner(settings: config.RunConfig) -> Learner:
    """Untrained, with clues and logits strong enough to disagree, and buffers off their start."""
    learner = build_learner(settings, _CLASSES, torch.device("cpu"))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in learner.teacher.parameters():
            parameter.mul_(1.5).add_(0.05 * torch.randn_like(parameter))
    return learner


@pytest.fixture(scope="module")
def image() -> ImageDHW:
    return make_phantom(2, (20, 24, 16))[0]


def _maps(image: ImageDHW, settings: config.RunConfig, learner: Learner, **options: Any) -> BeliefMaps:
    return belief_maps(learner, image, measure(image, "zscore"), settings, **options)


def test_maps_agree_with_prediction(image: ImageDHW) -> None:
    settings = _settings()
    learner, windowing = _learner(settings), Windowing.of(settings)
    maps = _maps(image, settings, learner)
    normalise = measure(image, "zscore").apply
    plain, fused = InferNetwork(learner, settings, False), InferNetwork(learner, settings, True)
    np.testing.assert_array_equal(
        maps.pseudo_label, predict_labels(plain, image, windowing, normalise=normalise)
    )
    np.testing.assert_array_equal(
        maps.prediction, predict_labels(fused, image, windowing, normalise=normalise)
    )
    np.testing.assert_array_equal(maps.rectified, maps.prediction)
    np.testing.assert_array_equal(maps.changed, maps.pseudo_label != maps.rectified)
    assert 0 < maps.changed.mean() < 1
    slabs = predict_slabs(fused, image, windowing, normalise=normalise)
    highest = np.concatenate([slab.probability_CDHW.max(0) for slab in slabs])
    np.testing.assert_allclose(maps.uncertainty, 1 - highest, atol=1e-6)


def test_before_rectification_starts_the_pseudo_label_stays(image: ImageDHW) -> None:
    settings = _settings()
    learner = _learner(settings)
    early, late = (_maps(image, settings, learner, step=step) for step in (9, 10))
    np.testing.assert_array_equal(early.rectified, early.pseudo_label)
    assert not early.changed.any()
    assert late.changed.any()
    np.testing.assert_array_equal(early.prediction, late.prediction)


def test_clues_and_similarity_of_one_window_are_the_teachers(image: ImageDHW) -> None:
    settings = _settings(views={"minmax": False})
    learner = _learner(settings)
    part = image[:16, 4:20]
    maps = _maps(part, settings, learner)
    assert maps.clues is not None
    assert maps.similarity is not None
    with torch.no_grad():
        learner.teacher.eval()
        x = torch.from_numpy(measure(part, "zscore").apply(part))[None, None]
        clues = learner.teacher.clues(learner.teacher(x))
    np.testing.assert_allclose(maps.clues, clues.map_BCDHW[0].numpy(), atol=1e-4)
    assert maps.similarity.shape == (_CLASSES, 16, 16, 16)
    # Upsampling keeps values within those of the proximity maps, class by class.
    largest = clues.proximity[0].amax(1).flatten(1)
    bounds = zip(maps.similarity, largest.amin(1), largest.amax(1), strict=True)
    for shown, low, high in bounds:
        assert low - 1e-4 <= shown.min() <= shown.max() <= high + 1e-4


@pytest.mark.parametrize("name", ["supervised", "mean-teacher"])
def test_without_clues_there_are_none(name: str, image: ImageDHW) -> None:
    settings = _settings(name=name)
    maps = _maps(image, settings, _learner(settings))
    assert maps.clues is None
    assert maps.similarity is None
    assert not maps.changed.any()
    np.testing.assert_array_equal(maps.prediction, maps.pseudo_label)


def test_shapes_follow_the_volume_and_nothing_of_the_learner_changes(image: ImageDHW) -> None:
    settings = _settings()
    learner = _learner(settings)
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    seen: list[tuple[int, int]] = []
    maps = _maps(image[:5], settings, learner, progress=lambda done, total: seen.append((done, total)))
    assert maps.pseudo_label.shape == maps.uncertainty.shape == maps.changed.shape == (5, 24, 16)
    assert maps.changed.dtype == bool
    assert seen[-1][0] == seen[-1][1]
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.state_dict().items())
