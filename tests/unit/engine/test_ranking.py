"""What the order of suggestions promises, on made-up slices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_crln.engine.ranking import Slices, choose


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
        position=2.0 * index,
        extent=np.full(n, 2.0 * depth),
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
    features[:, 0] = [0, 1, 5, 2, 3, 4, 6, 7]
    slices = replace(_alike(features=features), annotated=np.arange(8) == 0)
    first = choose(slices, 1)[0]
    assert first.row == 7
    assert first.newer_than == pytest.approx(6 / 7)


def test_the_next_choice_is_discounted_by_its_likeness_to_those_before() -> None:
    """Twins: the best and second-best by uncertainty look the same, so another comes second."""
    features = np.eye(8, 5, dtype=np.float32) * 4
    features[5] = features[3]
    uncertainty = np.full(8, 0.8)
    uncertainty[[3, 5]] = 1.0, 0.99
    chosen = [c.row for c in choose(_alike(features=features, uncertainty=uncertainty), 8)]
    assert chosen[0] == 3
    assert chosen.index(5) > 3


def test_without_any_annotation_uncertainty_decides_the_first() -> None:
    slices = _slices(annotated=np.zeros(48, np.bool_), disagreement=None)
    (choice,) = choose(slices, 1)
    assert choice.row == slices.uncertainty.argmax()
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


def test_near_slices_of_a_volume_are_discounted_and_those_of_another_axis_are_not() -> None:
    uncertainty = np.full(48, 1.0)
    uncertainty[20] = 1.01
    slices = _slices(uncertainty=uncertainty, disagreement=None, features=np.zeros((48, 5), np.float32))
    slices = replace(slices, annotated=np.zeros(48, np.bool_))
    rows = [c.row for c in choose(slices, 4)]
    assert rows[0] == 20
    assert {int(slices.volume[row]) for row in rows} == {0, 1, 2, 3}, "one a volume, while gains are alike"
    across = replace(slices, axis=np.where(np.arange(48) == 21, 1, 0))
    assert choose(across, 2)[1].row in {0, 21}


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
