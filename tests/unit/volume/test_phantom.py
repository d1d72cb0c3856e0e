"""Phantoms: deterministic, anatomically plausible, and not segmentable by a threshold."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, label

from napari_crln.volume.phantom import CLASSES, DEFAULT_SHAPE, Phantom, make_phantom, phantom_cohort


@pytest.fixture(scope="module")
def cohort() -> list[Phantom]:
    return list(phantom_cohort(8, seed=11))


def test_equal_seeds_give_equal_phantoms_and_others_differ() -> None:
    image, labels = make_phantom(5)
    again, labels_again = make_phantom(5)
    other, labels_other = make_phantom(6)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert np.any(labels != labels_other)
    assert np.any(image != other)


def test_a_longer_cohort_begins_with_the_shorter(cohort: list[Phantom]) -> None:
    for short, long in zip(phantom_cohort(3, seed=11), islice(cohort, 3), strict=True):
        assert short.name == long.name
        np.testing.assert_array_equal(short.image, long.image)


def test_noise_changes_the_image_only() -> None:
    (clean, labels), (noisy, labels_noisy) = make_phantom(4, noise=0.0), make_phantom(4, noise=1.0)
    np.testing.assert_array_equal(labels, labels_noisy)
    inside = labels == 1
    assert clean[inside].std() < 0.5 * noisy[inside].std()
    assert abs(float(clean[inside].mean()) - float(noisy[inside].mean())) < 1.5


def test_cohorts_of_other_seeds_share_no_member(cohort: list[Phantom]) -> None:
    ours = {p.image.tobytes() for p in cohort}
    assert len(ours) == len(cohort)
    assert ours.isdisjoint(p.image.tobytes() for p in phantom_cohort(4, seed=12))


@pytest.mark.parametrize("shape", [DEFAULT_SHAPE, (16, 16, 16), (17, 40, 29)])
def test_shape_dtype_and_all_classes(shape: tuple[int, int, int]) -> None:
    image, labels = make_phantom(0, shape)
    assert image.shape == labels.shape == shape
    assert image.dtype == labels.dtype == np.uint8
    assert set(np.unique(labels)) == set(range(len(CLASSES) + 1))


def test_too_small_a_shape_is_refused_by_value() -> None:
    with pytest.raises(ValueError, match=r"\(48, 15, 64\)"):
        make_phantom(0, (48, 15, 64))


def test_every_class_is_large_enough_to_be_learnt_and_to_be_scored(cohort: list[Phantom]) -> None:
    shares = np.array([np.bincount(p.labels.ravel(), minlength=4) / p.labels.size for p in cohort])
    assert shares[:, 1:].min() > 0.004
    assert shares[:, 1:].max() < 0.15


def test_body_and_lobe_are_one_piece_and_touch(cohort: list[Phantom]) -> None:
    for phantom in cohort:
        body, lobe = phantom.labels == 1, phantom.labels == 2
        for mask in (body, lobe):
            assert _largest_share(mask) > 0.97
        assert (binary_dilation(body) & lobe).any()


def test_anatomy_varies_between_members(cohort: list[Phantom]) -> None:
    for value in range(1, 4):
        overlaps = [_dice(a.labels == value, b.labels == value) for a, b in pairwise(cohort)]
        assert max(overlaps) < 0.95
        assert np.mean(overlaps) < 0.85


def test_the_same_anatomy_at_another_resolution() -> None:
    coarse, fine = make_phantom(3, (24, 32, 32))[1], make_phantom(3, (48, 64, 64))[1]
    pooled = fine.reshape(24, 2, 32, 2, 32, 2)[:, 0, :, 0, :, 0]
    assert _dice(coarse == 1, pooled == 1) > 0.9


def test_contrast_is_about_the_noise(cohort: list[Phantom]) -> None:
    """Between body and the tissue around it, in standard deviations within the body."""
    ratios = []
    for phantom in cohort:
        body = phantom.labels == 1
        shell = binary_dilation(body, iterations=4) & ~binary_dilation(phantom.labels > 0, iterations=2)
        image = phantom.image.astype(float)
        ratios.append((image[body].mean() - image[shell].mean()) / image[body].std())
    assert 0.6 < np.median(ratios) < 2.0


def test_no_threshold_segments_an_organ(cohort: list[Phantom]) -> None:
    """The best window of intensities, chosen with the truth in hand, is worse than missing a voxel all around."""
    for phantom in cohort:
        for value in range(1, 4):
            organ = phantom.labels == value
            careless = min(_dice(organ, binary_dilation(organ)), _dice(organ, binary_erosion(organ)))
            assert _best_window_dice(phantom.image, organ) < careless


def _best_window_dice(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    inside = np.bincount(image[mask], minlength=256).cumsum()
    everywhere = np.bincount(image.ravel(), minlength=256).cumsum()
    hits = inside[:, None] - inside[None, :]
    size = everywhere[:, None] - everywhere[None, :]
    return float((2 * hits / (np.maximum(size, 0) + mask.sum())).max())


def _largest_share(mask: NDArray[np.bool_]) -> float:
    pieces, count = label(mask)
    return float(np.bincount(pieces.ravel())[1:].max() / mask.sum()) if count else 0.0


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))
