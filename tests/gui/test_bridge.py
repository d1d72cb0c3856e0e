"""Workers of the panel: what they yield arrives here, in order and whole, until one is let go of."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from napari_crln.gui.bridge import Bridge


@pytest.fixture
def bridge(qtbot: Any) -> Iterator[Bridge]:
    bridge = Bridge()
    yield bridge
    bridge.close()


class Endless:
    """A stream that yields as fast as it may, and remembers the thread that ended it."""

    def __init__(self) -> None:
        self.ended_by: threading.Thread | None = None

    def __call__(self) -> Iterator[int | None]:
        try:
            while True:
                yield 1
                yield None
                time.sleep(0.001)
        finally:
            self.ended_by = threading.current_thread()


def nothing(*_: Any) -> None:
    pass


def test_a_stream_is_heard_in_order_and_then_its_end(bridge: Bridge, wait: Callable[..., None]) -> None:
    heard: list[Any] = []
    bridge.stream(lambda: iter([1, None, 2, 3]), heard.append, lambda: heard.append("end"), heard.append)
    wait(lambda: "end" in heard)
    assert heard == [1, 2, 3, "end"]


@pytest.mark.parametrize("error", [ValueError("why"), RuntimeError("why")])
def test_an_error_reaches_who_asked(error: Exception, bridge: Bridge, wait: Callable[..., None]) -> None:
    def fail() -> None:
        raise error

    def fails_later() -> Iterator[int]:
        yield 1
        fail()

    errors: list[Exception] = []
    bridge.run(fail, nothing, errors.append)
    wait(lambda: len(errors) == 1)
    bridge.stream(fails_later, nothing, nothing, errors.append)
    wait(lambda: len(errors) == 2)
    assert all("why" in str(each) for each in errors)


def test_a_closed_bridge_calls_nobody_and_its_streams_end(qtbot: Any, wait: Callable[..., None]) -> None:
    bridge, seen, endless = Bridge(), [], Endless()
    bridge.stream(endless, seen.append, nothing, nothing)
    wait(lambda: len(seen) > 2)
    bridge.close()
    count = len(seen)
    assert endless.ended_by is not None
    qtbot.wait(100)
    bridge.run(lambda: seen.append(1), seen.append, seen.append)
    bridge.stream(endless, seen.append, nothing, nothing)
    qtbot.wait(100)
    assert len(seen) == count


def test_a_stream_let_go_of_is_not_heard_again_and_ends_in_its_own_thread(
    bridge: Bridge, qtbot: Any, wait: Callable[..., None]
) -> None:
    seen: list[int] = []
    endless = Endless()
    let_go = bridge.stream(endless, seen.append, nothing, nothing)
    wait(lambda: bool(seen))
    let_go()
    count = len(seen)
    qtbot.wait(50)
    assert len(seen) == count
    wait(lambda: endless.ended_by is not None)
    assert endless.ended_by is not threading.main_thread()


def test_nothing_is_lost_of_many_workers_that_end_while_others_start(
    bridge: Bridge, wait: Callable[..., None]
) -> None:
    done: list[int] = []
    for number in range(200):
        bridge.run(lambda number=number: number, done.append, nothing)
        let_go = bridge.stream(Endless(), nothing, nothing, nothing)
        if number % 2:
            time.sleep(0.002)  # values are under way when it is let go of
        let_go()
    wait(lambda: len(done) == 200)
    assert sorted(done) == list(range(200))


def test_warnings_of_the_process_go_where_they_went(bridge: Bridge, wait: Callable[..., None]) -> None:
    shown, filters = warnings.showwarning, list(warnings.filters)
    seen: list[int] = []
    let_go = [bridge.stream(Endless(), seen.append, nothing, nothing) for _ in range(2)]
    wait(lambda: len(seen) > 10)
    assert warnings.showwarning is shown
    assert warnings.filters == filters
    for each in let_go:
        each()
