"""A stored volume is plain OME-Zarr 0.5, by the judgement of the field's own packages."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from napari_crln.volume.geometry import Grid
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader
    from ome_zarr_models.v05.image import Image
    from ome_zarr_models.v05.image_label import ImageLabel
    from ome_zarr_models.v05.labels import Labels


@pytest.fixture
def volume(project: Project) -> Volume:
    image = np.random.default_rng(0).integers(0, 99, (4, 20, 300), dtype=np.int16)
    annotation = (image % 3 + 1).astype(np.uint8)
    grid = Grid((4, 20, 300), np.array([[0.5, 0, 0, 9], [0, 0.6, 0.8, 8], [0, -0.8, 0.6, 7], [0, 0, 0, 1.0]]))
    volume = project.add("a", image, grid, "labelled", annotation)
    volume.write_prediction(annotation - 1, {"run": "r"})
    volume.write_map("probability", np.stack([image.astype(np.float32)] * 3))
    return volume


def group(path: Path) -> Any:
    return zarr.open_group(path, mode="r")


def test_image_is_valid_with_axes_units_scale(volume: Volume) -> None:
    (multiscale,) = Image.from_zarr(group(volume.path)).ome_attributes.multiscales
    assert [(a.name, a.type, a.unit) for a in multiscale.axes] == [(n, "space", "millimeter") for n in "zyx"]
    finest, coarser = (d.coordinateTransformations for d in multiscale.datasets[:2])
    assert finest[0].scale == pytest.approx([1.0, 1.0, 0.5])
    assert len(finest) == 1
    assert coarser[0].scale == pytest.approx([1.0, 1.0, 1.0])
    assert coarser[1].translation == pytest.approx([0, 0, 0.25])  # centre of the first averaged pair


def test_labels_are_valid_and_listed(volume: Volume) -> None:
    labels = volume.path / "labels"
    assert sorted(Labels.from_zarr(group(labels)).ome_attributes.labels) == ["annotation", "prediction"]
    for name, first in (("annotation", 1), ("prediction", 1)):
        described = ImageLabel.from_zarr(group(labels / name)).ome_attributes.image_label
        assert described is not None
        assert next(c.label_value for c in described.colors) == first
        assert group(labels / name).attrs["crln"]
    properties = group(labels / "prediction").attrs["ome"]["image-label"]["properties"]
    assert properties == [
        {"label-value": 1, "class": "head", "source-id": 4},
        {"label-value": 2, "class": "tail", "source-id": 7},
    ]


def test_maps_are_valid_images_with_channels(volume: Volume) -> None:
    (multiscale,) = Image.from_zarr(group(volume.path / "maps" / "probability")).ome_attributes.multiscales
    assert [a.name for a in multiscale.axes] == ["c", "z", "y", "x"]


def test_the_ome_zarr_reader_finds_image_and_labels(volume: Volume) -> None:
    location = parse_url(str(volume.path))
    assert location is not None
    nodes = {Path(str(node.zarr.path)).name: node.data for node in Reader(location)()}
    np.testing.assert_array_equal(np.asarray(nodes["a.zarr"][0]), volume.read_image())
    np.testing.assert_array_equal(np.asarray(nodes["annotation"][0]), volume.read_annotation())
    assert len(nodes["a.zarr"]) == len(nodes["annotation"]) == 3
