"""Sample data: layer data that napari takes, placed as the cohort says, without importing napari."""

from __future__ import annotations

import numpy as np

from napari_crln.gui.sample_data import VOLUMES, phantoms
from napari_crln.volume.phantom import CLASSES, SPACING


def test_one_image_a_volume_and_labels_of_the_first_on_top() -> None:
    layers = phantoms()
    assert [kind for *_, kind in layers] == ["image"] * VOLUMES + ["labels"]
    first, labels = layers[-2], layers[-1]
    assert labels[1]["name"] == f"{first[1]['name']} labels"
    assert labels[0].shape == first[0].shape
    assert len({kwargs["name"] for _, kwargs, _ in layers}) == len(layers)


def test_only_the_labelled_image_is_visible() -> None:
    visible = [kwargs["name"] for _, kwargs, kind in phantoms() if kind == "image" and kwargs["visible"]]
    assert visible == ["phantom_000"]


def test_placement_is_the_spacing_in_millimetres() -> None:
    for _, kwargs, _ in phantoms():
        np.testing.assert_allclose(np.diag(kwargs["affine"])[:3], SPACING)
        assert kwargs["units"] == ("mm", "mm", "mm")


def test_every_label_value_has_a_name_and_a_colour() -> None:
    labels, kwargs, _ = phantoms()[-1]
    named = dict(zip(kwargs["features"]["index"], kwargs["features"]["class"], strict=True))
    assert named == dict(enumerate(("background", *CLASSES)))
    assert set(np.unique(labels)) <= set(kwargs["colormap"])
