from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_crln.engine.cohort import Case, Cohort
from napari_crln.errors import ProjectError
from napari_crln.types import IGNORE
from napari_crln.volume.intensity import Normalisation, measure

PATCH = (8, 10, 12)
CPU = torch.device("cpu")


def case(
    shape: tuple[int, int, int],
    dtype: str = "uint8",
    offset: float = 0,
    target: NDArray[np.int16] | None = None,
) -> Case:
    rng = np.random.default_rng(0)
    image = (rng.integers(0, 100, shape) + offset).astype(dtype)
    return Case("c", image, measure(image, "percentile"), target)


def whole_normalised(made: Case) -> NDArray[np.float32]:
    return made.normalisation.apply(made.image)


@pytest.mark.parametrize(
    ("dtype", "offset"),
    [("uint8", 0), ("int8", -60), ("uint16", 60_000), (">u2", 60_000), (">i2", -30_000), ("int32", 2**30),
     ("uint32", 2**31), ("int64", 2**40), ("float16", 0), ("float32", 0), (">f4", 0), ("float64", 1e12)],
)  # fmt: skip
def test_patches_are_slices_of_the_normalised_volume(dtype: str, offset: float) -> None:
    made = case((12, 14, 16), dtype, offset)
    cohort = Cohort([made], PATCH, CPU)
    draws = [(0, (0, 0, 0)), (0, (4, 4, 4)), (0, (2, 1, 3))]
    patches = cohort.images(draws)
    assert patches.dtype == torch.float32
    whole = whole_normalised(made)
    assert np.ptp(whole) > 0.5, "no contrast, so nothing is tested"
    for patch, (_, (d, h, w)) in zip(patches, draws, strict=True):
        expected = whole[d : d + 8, h : h + 10, w : w + 12]
        np.testing.assert_allclose(patch[0].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_stored_dtype_is_what_is_held() -> None:
    assert Cohort([case((12, 14, 16), "uint8")], PATCH, CPU)._held[0].image.dtype == torch.uint8


@pytest.mark.parametrize("scale", [0.01, -0.01])
def test_small_volumes_are_padded_around_by_the_lowest_that_the_patch_sees(scale: float) -> None:
    target = np.random.default_rng(1).integers(0, 3, (5, 10, 20)).astype(np.int16)
    plain = case((5, 10, 20), target=target)
    made = Case("c", plain.image, Normalisation(kind="none", low=0, high=200, shift=3, scale=scale), target)
    cohort = Cohort([made], PATCH, CPU)
    draws = [(0, (0, 0, 2))]
    image, valid = cohort.images(draws)[0, 0].numpy(), cohort.validity(draws)[0].numpy()
    inside = (slice(1, 6), slice(None), slice(None))  # 8 - 5 = 3 planes: 1 before, 2 after
    expected = whole_normalised(made)[:, :, 2:14]
    np.testing.assert_allclose(image[inside], expected, rtol=1e-5)
    assert valid[inside].all()
    assert valid.sum() == expected.size
    assert (image[~valid] == image[inside].min()).all()
    y = cohort.targets(draws)[0].numpy()
    np.testing.assert_array_equal(y[inside], target[:, :, 2:14])
    assert (y[~valid] == IGNORE).all()


def test_large_and_small_volumes_in_one_batch() -> None:
    large, small = case((12, 14, 16)), case((4, 14, 16))
    cohort = Cohort([large, small], PATCH, CPU)
    images = cohort.images([(0, (1, 1, 1)), (1, (0, 1, 1))])
    np.testing.assert_allclose(images[0, 0].numpy(), whole_normalised(large)[1:9, 1:11, 1:13], rtol=1e-5)
    valid = cohort.validity([(0, (1, 1, 1)), (1, (0, 1, 1))])
    assert valid[0].all()
    assert valid[1].sum() == 4 * 10 * 12


def test_corners_cover_every_place_and_volume_evenly() -> None:
    cohort = Cohort([case((9, 10, 13)), case((9, 10, 13))], PATCH, CPU)
    draws = cohort.draw(np.random.default_rng(0), 4000)
    seen, counts = np.unique([(i, *corner) for i, corner in draws], axis=0, return_counts=True)
    assert len(seen) == 2 * 2 * 1 * 2
    assert (abs(counts - 500) < 90).all()


def sparse_target(at: list[tuple[int, int, int]], value: int = 1) -> Any:
    target = np.full((40, 40, 40), IGNORE, np.int16)
    for voxel in at:
        target[voxel] = value
    return target


def test_patches_of_sparse_volumes_hold_an_annotated_voxel_anywhere_in_them() -> None:
    target = sparse_target([(20, 20, 20), (0, 39, 5)])
    cohort = Cohort([case((40, 40, 40), target=target)], PATCH, CPU)
    draws = cohort.draw(np.random.default_rng(0), 300)
    labelled = cohort.targets(draws) != IGNORE
    assert (labelled.flatten(1).sum(1) >= 1).all()
    where = labelled.nonzero()[:, 1:]
    assert (where.amin(0) == 0).all(), "never at the patch's near border"
    assert (where.amax(0) == torch.tensor(PATCH) - 1).all(), "never at its far border"


def test_foreground_share_centres_that_share_of_patches_on_foreground() -> None:
    target = np.zeros((40, 40, 40), np.int16)
    target[20, 20, 20] = 1
    cohort = Cohort([case((40, 40, 40), target=target)], PATCH, CPU, foreground=0.5)
    draws = cohort.draw(np.random.default_rng(0), 600)
    share = (cohort.targets(draws) > 0).flatten(1).any(1).float().mean()
    assert 0.45 < share < 0.58


def test_a_sparse_volume_without_foreground_still_gives_annotated_patches() -> None:
    cohort = Cohort([case((40, 40, 40), target=sparse_target([(30, 30, 30)], 0))], PATCH, CPU, foreground=1.0)
    draws = cohort.draw(np.random.default_rng(0), 50)
    assert (cohort.targets(draws) != IGNORE).flatten(1).any(1).all()


def test_without_a_volume_the_error_says_what_to_do() -> None:
    with pytest.raises(ProjectError, match="Import or label"):
        Cohort([], PATCH, CPU)
