"""Sample data: layer data that napari takes, placed as the cohort says, without importing napari."""

from __future__ import annotations

import numpy as np
import pytest

from napari_crln.gui.layer_data import Layer
from napari_crln.gui.sample_data import LABELLED, VOLUMES, phantoms
from napari_crln.volume.phantom import CLASSES, SPACING


@pytest.fixture(scope="module")
def layers() -> list[Layer]:
    return phantoms()


def test_several_images_and_labels_of_a_few_on_top(layers: list[Layer]) -> None:
    assert [kind for *_, kind in layers] == ["image"] * VOLUMES + ["labels"] * LABELLED
    names = {kwargs["name"] for _, kwargs, _ in layers}
    assert len(names) == len(layers)
    for data, kwargs, _ in layers[VOLUMES:]:
        assert kwargs["name"].removesuffix(" labels") in names
        assert data.shape == layers[0][0].shape


def test_only_the_first_volume_is_visible(layers: list[Layer]) -> None:
    visible = [kwargs["name"] for _, kwargs, _ in layers if kwargs["visible"]]
    assert visible == ["phantom_000", "phantom_000 labels"]


def test_placement_is_the_spacing_in_millimetres(layers: list[Layer]) -> None:
    for _, kwargs, _ in layers:
        np.testing.assert_allclose(np.diag(kwargs["affine"])[:3], SPACING)
        assert kwargs["units"] == ("mm", "mm", "mm")


def test_every_label_value_has_a_name_and_a_colour(layers: list[Layer]) -> None:
    for labels, kwargs, _ in layers[VOLUMES:]:
        named = dict(zip(kwargs["features"]["index"], kwargs["features"]["class"], strict=True))
        assert named == dict(enumerate(("background", *CLASSES)))
        assert set(np.unique(labels)) <= set(kwargs["colormap"])
