from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from pydantic import ValidationError

from napari_crln.errors import InvalidIntensity
from napari_crln.volume import intensity
from napari_crln.volume.intensity import Normalisation, measure


@pytest.fixture
def ramp() -> np.ndarray:
    return np.arange(1000, dtype=np.uint16).reshape(10, 10, 10)


def test_zscore_has_mean_zero_and_deviation_one(ramp: np.ndarray) -> None:
    values = measure(ramp, "zscore").apply(ramp)
    assert values.dtype == np.float32
    assert abs(values.mean()) < 1e-6
    assert abs(values.std() - 1) < 1e-5


def test_percentile_maps_to_zero_and_one_and_clips(ramp: np.ndarray) -> None:
    ramp[0, 0, 0] = 60_000  # an outlier that must not stretch the range
    found = measure(ramp, "percentile")
    values = found.apply(ramp)
    assert (values.min(), values.max()) == (0, 1)
    assert found.high < 1000
    assert (found.low, found.high) == tuple(np.percentile(ramp, (0.5, 99.5)))


def test_none_gives_the_files_own_units(ramp: np.ndarray) -> None:
    values = measure(ramp, "none", scaling=(0.5, -7.0)).apply(ramp)
    np.testing.assert_allclose(values, ramp * 0.5 - 7, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("kind", ["zscore", "percentile", "none"])
def test_a_negative_slope_keeps_bright_bright(ramp: np.ndarray, kind: intensity.Kind) -> None:
    values = measure(ramp, kind, scaling=(-2.0, 1.0)).apply(ramp)
    assert values.flat[100] > values.flat[900]


def test_stored_and_scaled_give_the_same_zscore(ramp: np.ndarray) -> None:
    real = ramp * 0.037 - 0.77
    stored = measure(ramp, "zscore", scaling=(0.037, -0.77)).apply(ramp)
    np.testing.assert_allclose(stored, measure(real, "zscore").apply(real), atol=1e-5)


@pytest.mark.parametrize("kind", ["zscore", "percentile"])
def test_slab_by_slab_is_the_same(
    ramp: np.ndarray, kind: intensity.Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure(ramp, kind)
    monkeypatch.setattr(intensity, "_SLAB", 300)
    assert measure(ramp, kind).model_dump() == pytest.approx(whole.model_dump())


def test_percentiles_of_a_sample_are_close(ramp: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure(ramp, "percentile")
    monkeypatch.setattr(intensity, "SAMPLE", 300)
    assert measure(ramp, "percentile").low == pytest.approx(whole.low, abs=5)


def test_mostly_constant_image_still_has_a_range() -> None:
    image = np.zeros((10, 10, 10), np.float32)
    image[0, 0, 0] = 5
    assert measure(image, "percentile").apply(image).max() == 1


def test_large_offsets_keep_their_contrast() -> None:
    image = np.array([[[2**31 - 2, 2**31 - 1]]], np.int32)
    assert measure(image, "zscore").apply(image).tolist() == [[[-1, 1]]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_is_counted_and_named(value: float) -> None:
    image = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    image[1, 1, 1] = value
    with pytest.raises(InvalidIntensity, match=r"^a\.nii: 1 NaN or infinite voxel of 8; "):
        measure(image, "none", where="a.nii")


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((2, 2, 2), 7, np.int16), "every voxel is 7"),
        (np.zeros((2, 2, 2), complex), "complex128"),
        (np.zeros((2, 2, 2), bool), "bool"),
        (np.zeros((2, 2, 2), np.longdouble), "at most 64 bits"),
        (np.array([[[-1e300, 1e300]]]), "less than 1e30"),
    ],
)
def test_refusals(image: np.ndarray, words: str) -> None:
    with pytest.raises(InvalidIntensity, match=words):
        measure(image, "zscore")


def test_record_survives_json_exactly(ramp: np.ndarray) -> None:
    found = measure(ramp, "zscore")
    assert Normalisation.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(ValidationError):
        Normalisation(kind="none", low=0, high=1, shift=0, scale=float("nan"))


@pytest.mark.parametrize("kind", ["zscore", "percentile"])
def test_memory_does_not_grow_with_the_volume(kind: intensity.Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy:
        shape, dtype = (64, 128, 128), np.dtype(np.uint16)

        def __getitem__(self, rows: slice) -> np.ndarray:
            made = np.arange(rows.start, min(rows.stop, 64), dtype=np.uint16)
            return np.repeat(made, 128 * 128).reshape(-1, 128, 128)

    monkeypatch.setattr(intensity, "_SLAB", 1 << 14)
    monkeypatch.setattr(intensity, "SAMPLE", 1 << 10)
    tracemalloc.start()
    measure(Lazy(), kind)  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 128 * 128 * 2 / 2
