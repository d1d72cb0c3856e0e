from __future__ import annotations

import threading

import pytest

from napari_crln.engine.ahead import ReadAhead


def test_steps_in_order_and_out_of_order_are_what_they_would_be() -> None:
    ahead = ReadAhead(lambda step: step * step, steps=3)
    assert [ahead.take(step) for step in (0, 1, 2, 7, 8, 3, 4)] == [0, 1, 4, 49, 64, 9, 16]


def test_the_next_steps_are_made_before_they_are_taken() -> None:
    made, enough = [], threading.Event()

    def make(step: int) -> int:
        made.append(step)
        if len(made) == 4:
            enough.set()
        return step

    ahead = ReadAhead(make, steps=3)
    ahead.take(5)
    assert enough.wait(10)
    assert sorted(made) == [5, 6, 7, 8]
    ahead.take(6)
    ahead.take(7)
    assert made.count(6) == made.count(7) == 1


def test_the_error_of_a_step_comes_with_that_step() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise ValueError("damaged")
        return step

    ahead = ReadAhead(make, steps=4)
    assert [ahead.take(0), ahead.take(1)] == [0, 1]
    with pytest.raises(ValueError, match="damaged"):
        ahead.take(2)
    assert ahead.take(3) == 3


def test_what_was_made_is_made_again_once_it_is_forgotten() -> None:
    source = [1]
    ahead = ReadAhead(lambda step: source[0], steps=2)
    assert ahead.take(0) == 1
    source[0] = 2
    ahead.forget()
    assert ahead.take(1) == 2


def test_threads_end_with_the_reader() -> None:
    ahead = ReadAhead(lambda step: step, steps=1)
    ahead.take(0)
    pool = ahead._pool
    del ahead
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(int)
