from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_crln.config import Batches, Network, build
from napari_crln.engine.plan import STRIDE, plan, plan_decay, plan_patch, plan_rectification
from napari_crln.nn.build import build_network

_SIZE = st.integers(1, 700)
_SHAPES = st.lists(st.tuples(_SIZE, _SIZE, _SIZE), min_size=1, max_size=9)


def test_hippocampus() -> None:
    assert plan_patch([(35, 51, 35), (34, 49, 36), (40, 55, 33)]) == (32, 48, 32)


def test_the_left_atrium_gets_the_papers_patch_and_a_cpu_a_smaller_one() -> None:
    shapes = [(88, 640, 640), (88, 576, 576)]
    assert plan_patch(shapes) == (80, 112, 112)
    assert plan_patch(shapes, most_voxels=64**3) == (64, 64, 64)


def test_an_axis_below_the_stride_gets_one_stride() -> None:
    assert plan_patch([(3, 40, 17)]) == (16, 32, 16)


@given(_SHAPES, st.one_of(st.none(), st.integers(1, 10**6)))
def test_a_patch_is_a_multiple_within_its_bounds(
    shapes: list[tuple[int, int, int]], most: int | None
) -> None:
    patch = plan_patch(shapes, most_voxels=most)
    median = np.median(np.array(shapes), axis=0)
    for size, step, middle, largest in zip(patch, STRIDE, median, Batches().patch, strict=True):
        assert size % step == 0
        assert step <= size <= largest
        assert size <= max(step, middle)
    assert most is None or np.prod(patch) <= most or patch == STRIDE


def test_rectification_begins_within_the_run() -> None:
    assert plan_rectification(40_000) == 800
    assert plan_rectification(400) == 100
    assert plan_rectification(1) == 0


def test_a_short_run_has_a_quick_teacher() -> None:
    assert plan_decay(40_000) == 0.99
    assert plan_decay(100) == pytest.approx(0.9)
    assert plan_decay(500) == pytest.approx(0.95)
    assert plan_decay(1000) == pytest.approx(0.975)
    assert 0 < plan_decay(1) < 1


def test_a_cpu_gets_a_net_that_it_can_train() -> None:
    cpu, gpu = (build(plan([(48, 64, 64)], 500, cpu=cpu)) for cpu in (True, False))
    assert cpu.network.base_filters < gpu.network.base_filters
    assert cpu.optimiser.learning_rate > gpu.optimiser.learning_rate


def test_a_cpu_gets_a_smaller_patch_than_a_gpu() -> None:
    shapes = [(88, 640, 640)]
    cpu, gpu = (plan(shapes, 1000, cpu=cpu)["batches"]["patch"] for cpu in (True, False))
    assert np.prod(cpu) < np.prod(gpu)


def test_the_stride_is_the_networks() -> None:
    for name in ("vnet", "unet3d"):
        assert build_network(Network(name=name, base_filters=1), 2).stride == STRIDE  # type: ignore[arg-type]
