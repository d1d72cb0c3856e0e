"""Tiles reach (almost) all of a volume, and what is summed is of its own voxels, in mm²."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_crln.engine.cohort import Case
from napari_crln.engine.predict import Windowing
from napari_crln.engine.survey import VolumeSurvey, survey_steps, tiles
from napari_crln.method.slices import SliceBelief
from napari_crln.volume.intensity import Normalisation

CPU = torch.device("cpu")
PLAIN = Normalisation(kind="none", low=0, high=1, shift=0, scale=1)


def _case(image: Any, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Case:
    return Case("a", np.asarray(image, np.float32), PLAIN, None, spacing)


def _look(windows: torch.Tensor) -> SliceBelief:
    """The image itself is the uncertainty; the network disagrees where it is 1."""
    u = windows[:, 0]
    features = torch.nn.functional.avg_pool3d(windows, 2)
    return SliceBelief(u, (u == 1).float(), torch.ones_like(u), features)


def _survey(case: Case, patch: tuple[int, int, int], axes: tuple[int, ...] = (0, 1, 2)) -> VolumeSurvey:
    *pieces, last = survey_steps(_look, case, axes, Windowing(patch, batch=2), CPU, step=3)
    assert pieces == [None] * -(-len(tiles(case.image.shape, patch)) // 2)  # type: ignore[arg-type]
    assert last is not None
    return last


@given(size=st.integers(1, 200), tile=st.sampled_from([16, 32, 48]))
def test_tiles_lie_inside_and_leave_out_at_most_a_fifth_at_the_borders(size: int, tile: int) -> None:
    seen = np.zeros(size, np.intp)
    starts = [d for d, _, _ in tiles((size, 1, 1), (tile, 16, 16))]
    for start in starts:
        assert 0 <= start <= max(0, size - tile)
        seen[start : start + tile] += 1
    assert (seen == 0).sum() <= 0.2 * tile
    middle = np.flatnonzero(seen)
    assert (np.diff(middle) == 1).all(), "no gap between tiles"


def test_a_volume_hardly_larger_than_the_patch_is_one_tile() -> None:
    assert tiles((35, 51, 35), (32, 48, 32)) == [(1, 1, 1)]
    assert len(tiles((88, 180, 140), (80, 112, 112))) == 4


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_uncertainty_is_an_area_in_mm2(axis: int) -> None:
    image = np.zeros((16, 32, 16), np.float32)
    np.moveaxis(image, axis, 0)[5] = 0.5
    spacing = (2.0, 0.5, 3.0)
    table = _survey(_case(image, spacing), (16, 16, 16)).tables[axis]
    others = [a for a in range(3) if a != axis]
    area = np.prod([image.shape[a] * spacing[a] for a in others])
    assert table.uncertainty[5] == pytest.approx(0.5 * area)
    assert np.delete(table.uncertainty, 5).max() == 0


def test_disagreement_is_the_share_of_the_uncertainty_that_is_disputed() -> None:
    image = np.zeros((16, 16, 16), np.float32)
    image[3, :4], image[3, 4:8] = 1.0, 0.5  # half the voxels, two thirds of the uncertainty
    survey = _survey(_case(image), (16, 16, 16))
    assert survey.rectified
    assert survey.tables[0].disagreement[3] == pytest.approx(2 / 3)
    assert survey.tables[0].disagreement[4] == 0


@pytest.mark.parametrize("shape", [(9, 18, 16), (7, 5, 3)])
def test_a_volume_smaller_than_the_tile_is_padded_and_padding_is_not_counted(
    shape: tuple[int, int, int],
) -> None:
    rng = np.random.default_rng(0)
    image = rng.random(shape).astype(np.float32)
    table = _survey(_case(image), (16, 16, 16), (0,)).tables[0]
    whole = image[:, 1:17] if shape[1] == 18 else image  # the tile leaves a row out on either side
    expected = whole.mean((1, 2)) * shape[1] * shape[2]
    np.testing.assert_allclose(table.uncertainty, expected, rtol=1e-5)


def test_border_slices_that_no_tile_reaches_are_nan() -> None:
    table = _survey(_case(np.ones((18, 16, 16))), (16, 16, 16), (0,)).tables[0]
    assert np.isnan(table.uncertainty[[0, 17]]).all()
    assert np.isfinite(table.uncertainty[1:17]).all()
