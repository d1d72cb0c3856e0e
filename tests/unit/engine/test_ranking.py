"""What the order of suggestions promises, on made-up slices."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_crln.engine.ranking import PER_VOLUME, Slices, choose


def _slices(volumes: int = 4, depth: int = 12, seed: int = 0, **columns: Any) -> Slices:
    """Slices across D of some volumes, the first slice of the first one annotated."""
    rng = np.random.default_rng(seed)
    n = volumes * depth
    index = np.tile(np.arange(depth), volumes)
    annotated = np.zeros(n, np.bool_)
    annotated[0] = True
    made = Slices(
        volume=np.repeat(np.arange(volumes), depth),
        axis=np.zeros(n, np.intp),
        index=index,
        uncertainty=rng.uniform(1, 2, n),
        disagreement=rng.uniform(0.1, 0.2, n),
        features=rng.normal(size=(n, 5)).astype(np.float32),
        annotated=annotated,
    )
    return replace(made, **columns)


def _alike(**columns: Any) -> Slices:
    """All factors the same: one slice a volume, so that there is room for all."""
    n = 8
    same: dict[str, Any] = {
        "uncertainty": np.ones(n),
        "disagreement": np.full(n, 0.5),
        "features": np.zeros((n, 5), np.float32),
    }
    return _slices(n, 1, annotated=np.zeros(n, np.bool_), **(same | columns))


@pytest.mark.parametrize("factor", ["uncertainty", "disagreement"])
def test_all_else_equal_more_of_a_factor_ranks_higher(factor: str) -> None:
    values = np.array([0.3, 0.9, 0.1, 0.5, 0.2, 0.8, 0.4, 0.6])
    rows = [choice.row for choice in choose(_alike(**{factor: values}), 8)]
    assert rows == np.argsort(-values).tolist()


def test_all_else_equal_what_is_farther_from_the_annotated_ranks_higher() -> None:
    features = np.zeros((8, 5), np.float32)
    features[:, 0] = [0, 0, -2, 0, 0, 3, 0, 0]
    slices = replace(_alike(features=features), annotated=features[:, 0] == 0)
    found = choose(slices, 2)
    assert [c.row for c in found] == [5, 2]
    assert [c.newer_than for c in found] == [0.5, 0.0]
    assert found[0].novelty == pytest.approx(1.5 * found[1].novelty)


def test_the_next_choice_is_discounted_by_its_likeness_to_those_before() -> None:
    """Twins: the best and second-best by uncertainty look the same, so all others come before the second."""
    features = np.eye(8, 8, dtype=np.float32) * 4
    features[5] = features[3]
    uncertainty = np.full(8, 0.8)
    uncertainty[[3, 5]] = 1.0, 0.99
    slices = replace(_alike(features=features, uncertainty=uncertainty), annotated=np.arange(8) == 0)
    chosen = [c.row for c in choose(slices, 8)]
    assert chosen[0] == 3
    assert chosen[-1] == 5


def test_without_any_annotation_the_first_is_amid_what_is_uncertain() -> None:
    features = np.zeros((8, 1), np.float32)
    features[:, 0] = [0, 1, 2, 6, 7, 8, 9, 10]
    uncertainty = np.array([0, 0, 0, 1, 1, 1, 1, 1.0])
    (choice,) = choose(_alike(features=features, uncertainty=uncertainty), 1)
    assert choice.row == 5
    assert choice.novelty == 1.0


@given(seed=st.integers(0, 10_000), count=st.integers(1, 60), share=st.floats(0, 1))
def test_annotated_slices_and_neighbours_are_never_suggested(seed: int, count: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    slices = _slices(seed=seed, annotated=rng.random(48) < share)
    chosen = choose(slices, count)
    assert len(chosen) <= count
    places = [(int(slices.volume[c.row]), int(slices.index[c.row])) for c in chosen]
    assert not any(slices.annotated[c.row] for c in chosen)
    assert len(set(places)) == len(places)
    for volume, index in places:
        assert (volume, index + 1) not in places
    assert all(0 < c.gain <= 1 and np.isfinite(c.novelty) for c in chosen)


def test_a_slice_that_stands_for_many_comes_before_an_outlier_that_is_more_uncertain() -> None:
    """Eleven alike against one that is like nothing: the product of a slice's own factors would take the outlier."""
    features = np.zeros((13, 5), np.float32)
    features[1:12, 0], features[12, 1] = 1.0, 2.0
    uncertainty = np.array([1.0, *[0.5] * 11, 1.0])
    slices = _slices(13, 1, features=features, uncertainty=uncertainty, disagreement=None)
    first, second = choose(slices, 2)
    assert slices.uncertainty[12] > slices.uncertainty[first.row]
    assert first.row in range(1, 12)
    assert first.stands_for == 11
    assert second.row == 12, "what it stood for is reached: the outlier is next"
    assert second.stands_for == 1
    assert second.newer_than == pytest.approx(10 / 11), "all but itself"


def test_what_the_network_is_sure_of_is_listed_last_however_odd_it_is() -> None:
    """As border slices of dense projects are: far from all that is annotated, and certain."""
    features = np.zeros((9, 2), np.float32)
    features[1:8, 0], features[8, 1] = 0.1, 9.0
    uncertainty = np.array([1.0, *[0.5] * 7, 1e-5])
    slices = _slices(9, 1, features=features, uncertainty=uncertainty, disagreement=None)
    assert [c.row for c in choose(slices, 8)][-1] == 8


def test_what_a_slice_stands_for_counts_by_how_uncertain_that_is() -> None:
    """Two groups as large and as far: the one that the network is unsure of goes first, for all that its centre is sure."""
    features = np.zeros((9, 2), np.float32)
    features[1:5, 0], features[5:9, 1] = 1.0, 1.0
    uncertainty = np.array([0.1, 0.3, 0.3, 0.3, 0.3, 0.1, 0.9, 0.9, 0.9])
    slices = _slices(9, 1, features=features, uncertainty=uncertainty, disagreement=None)
    assert choose(slices, 1)[0].row in range(5, 9)
    swapped = replace(slices, uncertainty=uncertainty[::-1].copy())
    assert choose(swapped, 1)[0].row in range(1, 5)


def test_a_volume_that_is_begun_is_gone_on_with_before_another_is() -> None:
    """One annotated slice in the first volume: it gets all that it is to get, then the next one does."""
    slices = _slices(4, 30)
    chosen = [int(slices.volume[c.row]) for c in choose(slices, 2 * PER_VOLUME)]
    assert chosen[: PER_VOLUME - 1] == [0] * (PER_VOLUME - 1)
    (second,) = set(chosen[PER_VOLUME - 1 : 2 * PER_VOLUME - 1])
    assert second != 0
    assert chosen[-1] != second


def test_of_two_begun_volumes_the_gain_decides() -> None:
    uncertainty = np.where(np.arange(120) // 30 == 1, 2.0, 1.0)
    begun = np.isin(np.arange(120), [0, 30])
    slices = _slices(4, 30, uncertainty=uncertainty, features=np.zeros((120, 5), np.float32), annotated=begun)
    volumes = [int(slices.volume[c.row]) for c in choose(slices, 2 * PER_VOLUME - 2)]
    assert volumes == [1] * (PER_VOLUME - 1) + [0] * (PER_VOLUME - 1)


def test_where_every_volume_has_its_slices_all_are_open_again() -> None:
    full = np.arange(60) % 30 < 2 * PER_VOLUME
    slices = _slices(2, 30, annotated=full, uncertainty=np.where(np.arange(60) == 55, 9.0, 1.0))
    assert len(choose(slices, 5)) == 5


def test_slices_of_two_axes_are_neighbours_of_none() -> None:
    slices = _slices(1, 12, annotated=np.zeros(12, np.bool_))
    across = replace(slices, axis=np.arange(12) % 2, index=np.arange(12) // 2)
    rows = [c.row for c in choose(across, 12)]
    assert {0, 1} <= {int(across.axis[row]) for row in rows}
    for axis in (0, 1):
        own = sorted(int(across.index[row]) for row in rows if across.axis[row] == axis)
        assert all(b - a > 1 for a, b in pairwise(own))


@pytest.mark.parametrize("annotated", [0, 3])
def test_gains_are_shares_of_what_there_is_to_gain(annotated: int) -> None:
    """Each has less to give than the one before it in a volume of its own, and all together at most everything."""
    slices = _slices(60, 1, annotated=np.arange(60) < annotated)
    gains = [c.gain for c in choose(slices, 60)]
    assert gains == sorted(gains, reverse=True)
    assert 0.99 <= sum(gains) <= 1 + 1e-9


def test_the_order_is_a_function_of_its_arguments_and_a_prefix_of_a_longer_one() -> None:
    slices = _slices()
    assert choose(slices, 9) == choose(slices, 9)
    assert choose(slices, 9)[:4] == choose(slices, 4)


def test_a_factor_that_says_nothing_silences_no_other() -> None:
    values = np.array([0.3, 0.9, 0.1, 0.5, 0.2, 0.8, 0.4, 0.6])
    rows = [c.row for c in choose(_alike(uncertainty=values, disagreement=np.zeros(8)), 8)]
    assert rows == np.argsort(-values).tolist()


def test_many_slices_are_ranked_within_the_time_of_a_few_tiles() -> None:
    import time

    slices = _slices(100, 400)
    start = time.perf_counter()
    assert len(choose(slices, 20)) == 20
    assert time.perf_counter() - start < 5, "40,000 slices; 0.2 s on an idle core"


def test_nothing_left_to_suggest() -> None:
    assert choose(_slices(annotated=np.ones(48, np.bool_)), 5) == []
