from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import Tensor

from napari_crln import config
from napari_crln.engine import predict
from napari_crln.engine.predict import Cancelled, Windowing, predict_labels, predict_slabs
from napari_crln.engine.windows import Grid
from napari_crln.errors import ConfigError, OutOfMemory
from napari_crln.types import ImageDHW, ShapeDHW

SHAPES = st.tuples(*[st.integers(1, 14)] * 3)
PATCHES = st.tuples(*[st.integers(2, 8)] * 3)
RNG = np.random.default_rng(0)


def _volume(shape: ShapeDHW) -> ImageDHW:
    return RNG.integers(0, 200, shape).astype(np.uint8)


def _probabilities(network: predict.Network, image: Any, windowing: Windowing, **options: Any) -> Any:
    return np.concatenate(
        [s.probability_CDHW for s in predict_slabs(network, image, windowing, **options)], 1
    )


def _blurred(x_b1dhw: Tensor) -> Tensor:
    """Logits that depend on a voxel's neighbourhood and on its place in the window."""
    smooth = torch.nn.functional.avg_pool3d(x_b1dhw, 3, stride=1, padding=1)
    place = torch.linspace(0, 2, x_b1dhw.shape[-1])
    return torch.cat([smooth / 50, 2 - smooth / 80 + place, x_b1dhw / 100], dim=1)


def _voxelwise(x_b1dhw: Tensor) -> Tensor:
    return torch.cat([x_b1dhw / 90, 1 - x_b1dhw / 70], dim=1)


@settings(max_examples=30, deadline=None)
@given(
    shape=SHAPES,
    patch=PATCHES,
    overlap=st.floats(0, 0.9),
    batch=st.integers(1, 5),
    minmax=st.booleans(),
    flips=st.sampled_from(["", "H", "DW", "DHW"]),
)
def test_a_constant_survives_every_tiling(
    shape: ShapeDHW, patch: ShapeDHW, overlap: float, batch: int, minmax: bool, flips: Any
) -> None:
    logits = torch.tensor([0.3, -1.0, 2.0])[None, :, None, None, None]
    windowing = Windowing(patch, overlap=overlap, batch=batch, minmax=minmax, flips=tuple(flips))
    seen = _probabilities(lambda x: logits.expand(len(x), 3, *x.shape[2:]), _volume(shape), windowing)
    assert seen.shape == (3, *shape)
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, np.broadcast_to(logits[0].softmax(0).numpy(), seen.shape), rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, patch=PATCHES, overlap=st.floats(0, 0.9), flips=st.sampled_from(["", "DHW"]))
def test_a_function_of_the_voxel_is_reproduced(
    shape: ShapeDHW, patch: ShapeDHW, overlap: float, flips: Any
) -> None:
    """No voxel is moved, mirrored, lost or mixed up with padding, wherever the windows lie."""
    image = _volume(shape)
    seen = _probabilities(_voxelwise, image, Windowing(patch, overlap=overlap, batch=3, flips=tuple(flips)))
    expected = _voxelwise(torch.from_numpy(image)[None, None].float()).softmax(1)[0].numpy()
    np.testing.assert_allclose(seen, expected, atol=1e-5)


@pytest.mark.parametrize(
    "shape", [(20, 31, 17), (8, 12, 10), (40, 12, 11), (6, 30, 12), (20, 9, 7), (3, 4, 5)]
)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
def test_equals_monai(shape: ShapeDHW, overlap: float) -> None:
    image = _volume(shape)
    image[::2, ::2, ::2] = 0  # the minimum of every window, so that both pad with it
    expected = sliding_window_inference(
        torch.from_numpy(image)[None, None].float(),
        (8, 12, 10),
        4,
        lambda x: _blurred(x).softmax(1),
        overlap=overlap,
        mode="gaussian",
    )[0]
    seen = _probabilities(_blurred, image, Windowing((8, 12, 10), overlap=overlap, batch=3))
    np.testing.assert_allclose(seen, expected.numpy(), atol=1e-5)


def test_equals_monai_at_the_literatures_stride() -> None:
    image = _volume((88, 131, 120))
    expected = sliding_window_inference(
        torch.from_numpy(image)[None, None].float(),
        (80, 112, 112),
        2,
        lambda x: _voxelwise(x * 0.5).softmax(1),
        overlap=(1 - 4.001 / 80, 1 - 18.001 / 112, 1 - 18.001 / 112),
        mode="gaussian",
    )[0]
    windowing = Windowing((80, 112, 112), stride=(4, 18, 18))
    assert len(Grid.over((88, 131, 120), windowing.patch, windowing.stride, 0.5)) == 3 * 3 * 2
    seen = _probabilities(lambda x: _voxelwise(x * 0.5), image, windowing)
    np.testing.assert_allclose(seen, expected.numpy(), atol=1e-5)


def test_slabs_are_in_order_disjoint_and_no_higher_than_a_window() -> None:
    slabs = list(predict_slabs(_blurred, _volume((37, 9, 9)), Windowing((8, 8, 8), stride=(3, 4, 4))))
    assert [s.start for s in slabs] == [0, *[s.stop for s in slabs[:-1]]]
    assert slabs[-1].stop == 37
    assert all(s.probability_CDHW.shape == (3, s.stop - s.start, 9, 9) for s in slabs)
    assert max(s.stop - s.start for s in slabs) <= 8


def test_streaming_in_slabs_equals_a_sum_over_all_windows_at_once() -> None:
    image = _volume((23, 14, 13))
    grid = Grid.over((23, 14, 13), (8, 8, 8), (3, 5, 4), 0.5)
    total, weight = np.zeros((3, 23, 14, 13)), np.zeros((23, 14, 13))
    for z in grid.rows:
        for y, x in grid.columns:
            at = (slice(z, z + 8), slice(y, y + 8), slice(x, x + 8))
            window = torch.from_numpy(image[at].astype(np.float32))[None, None]
            total[:, *at] += _blurred(window).softmax(1)[0].numpy() * predict.importance((8, 8, 8))
            weight[at] += predict.importance((8, 8, 8))
    seen = _probabilities(_blurred, image, Windowing((8, 8, 8), stride=(3, 5, 4)))
    np.testing.assert_allclose(seen, total / weight, atol=1e-6)


class _Recorded:
    """A deep volume that only exists where it is read."""

    def __init__(self, depth: int) -> None:
        self.shape = (depth, 64, 64)
        self.reads: list[tuple[int, int]] = []

    def __getitem__(self, key: slice) -> ImageDHW:
        self.reads.append((key.start, key.stop))
        return np.full((key.stop - key.start, 64, 64), 7, np.uint16)


def test_each_plane_is_read_once_and_never_more_than_a_window() -> None:
    image = _Recorded(50)
    for _ in predict_slabs(_voxelwise, image, Windowing((8, 64, 64), stride=(3, 64, 64))):
        pass
    assert [start for start, _ in image.reads] == [0, *[stop for _, stop in image.reads[:-1]]]
    assert image.reads[-1][1] == 50
    assert max(stop - start for start, stop in image.reads) == 8


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs the process's memory in /proc")
def test_memory_is_bounded_by_a_slab() -> None:
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    depth = 4000
    probabilities = depth * 64 * 64 * 3 * 4 / 2**20
    logits = torch.zeros(1, 3, 16, 64, 64)
    slabs = predict_slabs(lambda x: logits, _Recorded(depth), Windowing((16, 64, 64), overlap=0, batch=1))
    next(slabs)
    before = resident()
    growth = max(resident() - before for _ in slabs)
    assert probabilities > 150
    assert growth < 30


@pytest.mark.parametrize("kind", ["zarr", "tensorstore"])
def test_reads_chunked_stores_as_it_reads_arrays(kind: str, tmp_path: Path) -> None:
    image = _volume((20, 9, 11))
    stored = zarr.create_array(tmp_path / "a.zarr", shape=image.shape, chunks=(4, 4, 4), dtype="uint8")
    stored[:] = image
    opened: Any = stored
    if kind == "tensorstore":
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "a.zarr")}}
        opened = tensorstore.open(spec).result()
    windowing = Windowing((8, 8, 8))
    np.testing.assert_array_equal(
        _probabilities(_blurred, opened, windowing), _probabilities(_blurred, image, windowing)
    )


def test_minmax_rescales_each_window_by_itself() -> None:
    image = np.zeros((8, 8, 16), np.int16)
    image[..., :8] = np.linspace(-100, 100, 8)
    image[..., 8:] = np.linspace(5, 6, 8, dtype=np.float32).round()
    windows: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        windows.extend(x.clone())
        return _voxelwise(x)

    predict_labels(network, image, Windowing((8, 8, 8), overlap=0, minmax=True))
    assert [(float(w.min()), float(w.max())) for w in windows] == [(0, 1), (0, 1)]
    torch.testing.assert_close(windows[0][0, 0, 0], torch.from_numpy((image[0, 0, :8] + 100) / 200).float())


def test_padding_is_the_windows_minimum_and_a_constant_window_becomes_zero() -> None:
    windows: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        windows.append(x.clone())
        return _voxelwise(x)

    image = np.full((4, 8, 8), 30, np.uint8)
    image[0, 0, 0] = 9
    predict_labels(network, image, Windowing((7, 8, 8)))
    assert float(windows[0][0, 0, 0].unique()) == 9  # one plane before, two after
    assert [float(windows[0][0, 0, z].mean()) for z in (5, 6)] == [9, 9]
    predict_labels(network, np.full((8, 8, 8), 30), Windowing((8, 8, 8), minmax=True))
    assert not windows[1].any()


def test_normalisation_is_applied_to_stored_values_before_minmax() -> None:
    image, seen = _volume((8, 8, 8)), []

    def network(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return _voxelwise(x)

    def normalise(stored: ImageDHW) -> Any:
        assert stored.dtype == np.uint8
        return -(stored.astype(np.float32) ** 2)

    predict_labels(network, image, Windowing((8, 8, 8)), normalise=normalise)
    np.testing.assert_allclose(seen[0][0, 0].numpy(), -(image.astype(np.float32) ** 2))


def test_flips_average_over_all_mirror_images() -> None:
    image = _volume((8, 8, 8))
    x = torch.from_numpy(image)[None, None].float()
    views = [torch.flip(_blurred(torch.flip(x, a)).softmax(1), a) for a in ([], [2], [4], [2, 4])]
    seen = _probabilities(_blurred, image, Windowing((8, 8, 8), flips=("D", "W")))
    np.testing.assert_allclose(seen, torch.stack(views).mean(0)[0].numpy(), atol=1e-6)


@pytest.mark.parametrize(("classes", "dtype"), [(3, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_labels_are_the_most_probable_class(classes: int, dtype: type) -> None:
    wanted = RNG.integers(0, classes, (9, 5, 6))

    def network(x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(x[:, 0].long(), classes).movedim(-1, 1) * 9.0

    labels = predict_labels(network, wanted, Windowing((4, 4, 4)))
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels, wanted)


def test_progress_counts_windows_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    predict_labels(
        _voxelwise, _volume((9, 9, 9)), Windowing((8, 8, 8), batch=3), progress=lambda *a: seen.append(a)
    )
    assert seen == [(3, 8), (4, 8), (7, 8), (8, 8)]


def test_cancelling_raises_and_runs_no_further_window() -> None:
    calls: list[int] = []

    def network(x: Tensor) -> Tensor:
        calls.append(len(x))
        return _voxelwise(x)

    with pytest.raises(Cancelled):
        predict_labels(network, _volume((40, 8, 8)), Windowing((8, 8, 8)), cancelled=lambda: len(calls) >= 3)
    assert calls == [1, 1, 1]


def test_the_consumer_keeps_its_gradient_mode() -> None:
    parameter = torch.ones(1, requires_grad=True)
    for _ in predict_slabs(lambda x: _voxelwise(x * parameter), _volume((20, 8, 8)), Windowing((8, 8, 8))):
        assert torch.is_grad_enabled()
        assert (parameter * 2).requires_grad


def test_too_large_a_batch_names_one_that_may_fit() -> None:
    def network(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(OutOfMemory, match=r"4 windows of 8 × 8 × 8.*predicting.batch to 2"):
        predict_labels(network, _volume((8, 24, 24)), Windowing((8, 8, 8), batch=4))


def test_a_stride_with_gaps_is_refused_before_anything_is_read() -> None:
    image = _Recorded(40)
    with pytest.raises(ConfigError):
        next(predict_slabs(_voxelwise, image, Windowing((8, 8, 8), stride=(9, 8, 8))))
    assert image.reads == []


def test_windowing_follows_the_run() -> None:
    run = config.build(
        {"predicting": {"stride": [4, 18, 18], "batch": 7}, "method": {"views": {"minmax": False}}}
    )
    windowing = Windowing.of(run, flips=("H",))
    assert windowing == Windowing((80, 112, 112), (4, 18, 18), 0.5, 7, False, ("H",))
