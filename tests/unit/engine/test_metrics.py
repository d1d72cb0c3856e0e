from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medpy.metric import binary
from scipy.ndimage import gaussian_filter

from napari_crln.engine import metrics
from napari_crln.types import ShapeDHW, SpacingDHW

EMPTY = np.zeros((5, 6, 7), bool)
SPACINGS: list[SpacingDHW] = [(1, 1, 1), (3.0, 0.7, 0.4), (0.625, 1.25, 5)]


def _blob(seed: int, shape: ShapeDHW = (18, 21, 24), smooth: float = 2.0) -> metrics.MaskDHW:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    return np.asarray(noise > np.quantile(noise, 0.8))


def _voxel(*index: int) -> metrics.MaskDHW:
    mask = EMPTY.copy()
    mask[index] = True
    return mask


def _distances(
    prediction: metrics.MaskDHW, truth: metrics.MaskDHW, spacing: SpacingDHW = (1, 1, 1)
) -> metrics.SurfaceDistances:
    return metrics.distances_between(metrics.borders(prediction), metrics.borders(truth), spacing)


def _agrees_with_medpy(prediction: Any, truth: Any, spacing: SpacingDHW) -> None:
    assert metrics.dice(prediction, truth) == pytest.approx(binary.dc(prediction, truth), abs=1e-6)
    assert metrics.jaccard(prediction, truth) == pytest.approx(binary.jc(prediction, truth), abs=1e-6)
    ours = _distances(prediction, truth, spacing)
    for name in ("hd95", "asd", "assd"):
        theirs = getattr(binary, name)(prediction, truth, voxelspacing=spacing, connectivity=1)
        assert getattr(ours, name) == pytest.approx(theirs, abs=1e-6), name


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_medpy_on_blobs(seed: int, spacing: SpacingDHW) -> None:
    _agrees_with_medpy(_blob(seed), _blob(seed + 100, smooth=1 + seed / 2), spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_agrees_with_medpy_on_single_voxels_full_volumes_and_equal_masks(spacing: SpacingDHW) -> None:
    corner, middle, full = _voxel(0, 0, 0), _voxel(2, 3, 6), ~EMPTY
    for prediction, truth in [
        (corner, middle),
        (middle, corner),
        (full, middle),
        (corner, full),
        (full, full),
    ]:
        _agrees_with_medpy(prediction, truth, spacing)


@settings(max_examples=40, deadline=None)
@given(
    data=st.binary(min_size=60, max_size=60),
    spacing=st.tuples(*[st.floats(0.1, 8)] * 3),
    share=st.integers(1, 255),
)
def test_agrees_with_medpy_on_any_voxels(data: bytes, spacing: SpacingDHW, share: int) -> None:
    values = np.frombuffer(data, np.uint8)
    prediction = (values < share).reshape(3, 4, 5)
    truth = (values[::-1] // 2 < share).reshape(3, 4, 5)
    prediction[0, 0, 0] = truth[-1, -1, -1] = True
    _agrees_with_medpy(prediction, truth, spacing)


def test_the_directed_distance_runs_from_prediction_to_truth() -> None:
    near, both = _voxel(0, 0, 0), _voxel(0, 0, 0) | _voxel(0, 0, 6)
    missed = _distances(near, both)
    invented = _distances(both, near)
    assert (missed.asd, invented.asd) == (0, 3)
    assert missed.assd == invented.assd == 2


def test_spacing_scales_each_axis_by_its_own() -> None:
    for axis, expected in enumerate((8.0, 3.0, 0.5)):
        index = [0, 0, 0]
        index[axis] = 2
        seen = _distances(_voxel(0, 0, 0), _voxel(*index), (4, 1.5, 0.25))
        assert seen.hd95 == expected


def test_the_border_is_six_connected_and_beyond_the_volume_is_outside() -> None:
    cube = EMPTY.copy()
    cube[1:4, 1:4, 1:4] = True
    assert len(metrics.borders(cube)) == 26
    assert (2, 2, 2) not in {tuple(p) for p in metrics.borders(cube)}
    cube[1, 1, 1] = False  # a diagonal neighbour does not make a border
    assert (2, 2, 2) not in {tuple(p) for p in metrics.borders(cube)}
    assert len(metrics.borders(~EMPTY)) == 5 * 6 * 7 - 3 * 4 * 5


def test_an_empty_object_has_no_border() -> None:
    assert metrics.borders(EMPTY).shape == (0, 3)


def test_overlap_with_an_empty_object() -> None:
    assert metrics.dice(EMPTY, EMPTY) is None
    assert metrics.jaccard(EMPTY, EMPTY) is None
    for prediction, truth in [(EMPTY, ~EMPTY), (~EMPTY, EMPTY)]:
        assert metrics.dice(prediction, truth) == 0
        assert metrics.jaccard(prediction, truth) == 0


def test_volume_is_in_millilitres() -> None:
    assert metrics.volume_ml(~EMPTY, (2.0, 0.5, 10.0)) == pytest.approx(5 * 6 * 7 * 10 / 1000)


def test_metrics_and_evaluation_import_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import napari_crln.engine.metrics, napari_crln.engine.evaluate, napari_crln.engine.plots\n"
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
