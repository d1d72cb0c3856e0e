"""Curves: bounded, peaks kept, and a run that goes back replaces what it repeats."""

from __future__ import annotations

import time

import numpy as np

from napari_crln.events import Stepped, Validated
from napari_crln.gui.curves import CAPACITY, Curves, Series


def test_points_come_back_as_they_were_added() -> None:
    series = Series()
    for step in range(10):
        series.add(step, step**2)
    np.testing.assert_array_equal(series.steps, np.arange(10))
    np.testing.assert_array_equal(series.values, np.arange(10) ** 2)


def test_memory_is_bounded_and_extremes_survive_thinning() -> None:
    series = Series(capacity=64)
    values = np.random.default_rng(0).normal(size=5000)
    values[[3, 2500]] = 100.0, -100.0
    for step, value in enumerate(values):
        series.add(step, value)
    assert len(series) <= 64
    points = dict(zip(series.steps, series.values, strict=True))
    assert (points[3], points[2500]) == (100.0, -100.0)
    assert (np.diff(series.steps) > 0).all()
    assert all(values[int(step)] == value for step, value in points.items())


def test_not_a_number_neither_breaks_nor_stops_thinning() -> None:
    series = Series(capacity=8)
    for step in range(30):
        series.add(step, np.nan)
    assert len(series) <= 8


def test_a_resumed_run_replaces_what_it_does_again() -> None:
    series = Series()
    for step in (10, 20, 30, 40):
        series.add(step, 1.0)
    series.add(20, 2.0)
    np.testing.assert_array_equal(series.steps, [10, 20])
    np.testing.assert_array_equal(series.values, [1.0, 2.0])


def test_reports_and_validations_go_to_their_groups() -> None:
    curves = Curves()
    curves.add(
        Stepped(step=1, interval=1, losses={"total": 2.0}, measures={"mu": 0.5}, learning_rate=1, rate=1)
    )
    curves.add(Validated(step=1, dice=0.5, per_class={"body": 0.4}, per_volume={}))
    assert (list(curves.losses), list(curves.measures)) == (["total"], ["mu"])
    assert {name: series.values[0] for name, series in curves.dice.items()} == {"mean": 0.5, "body": 0.4}
    assert curves.revision == 3


def test_a_hundred_thousand_points_take_no_noticeable_time_each() -> None:
    series = Series()
    begun = time.process_time()
    for step in range(CAPACITY + CAPACITY // 2):
        series.add(step, 1.0)
    assert time.process_time() - begun < 3.0  # 20 µs a point, ten times what it takes
