"""When the next picture may be drawn, so that drawing never takes more than an eleventh of the viewer's time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Rest after an update, in times of what it took.
REST = 10
#: Rest before what a person asked for, at most, s.
URGENT_S = 1.0


class Throttle:
    """Ready again `max(least_s, 10 × cost)` after the last update ended.

    Parameters
    ----------
    least_s : shortest pause between updates, seconds
    clock : seconds that only grow
    """

    def __init__(self, least_s: float = 0.1, clock: Callable[[], float] = time.monotonic) -> None:
        self.least_s = least_s
        self._clock = clock
        self._next = self._ended = -float("inf")
        self.last_cost_s = 0.0

    @property
    def ready(self) -> bool:
        return self._clock() >= self._next

    @property
    def ready_at_once(self) -> bool:
        """Ready for what a person asked for, who should not wait out the rest after a slow update."""
        return self._clock() >= min(self._next, self._ended + URGENT_S)

    def add(self, cost_s: float) -> None:
        """What the last update took besides, and the rest that goes with it: drawing comes after the update itself."""
        self.last_cost_s += cost_s
        self._rest()

    def now(self) -> float:
        """The clock's time, s."""
        return self._clock()

    def timed(self, update: Callable[[], T], *, continued: bool = False) -> T:
        """Do an update, or a further part of one, and rest in proportion to what it took, all parts together."""
        before = self.last_cost_s if continued else 0.0
        began = self._clock()
        try:
            return update()
        finally:
            self.last_cost_s = before + self._clock() - began
            self._rest()

    def _rest(self) -> None:
        self._ended = self._clock()
        self._next = self._ended + max(self.least_s, REST * self.last_cost_s)
