"""When the next picture may be drawn, so that drawing never takes more than an eleventh of the viewer's time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Rest after an update, in times of what it took.
REST = 10


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
        self._next = -float("inf")
        self.last_cost_s = 0.0

    @property
    def ready(self) -> bool:
        return self._clock() >= self._next

    def timed(self, update: Callable[[], T], *, continued: bool = False) -> T:
        """Do an update, or a further part of one, and rest in proportion to what it took, all parts together."""
        before = self.last_cost_s if continued else 0.0
        began = self._clock()
        try:
            return update()
        finally:
            ended = self._clock()
            self.last_cost_s = before + ended - began
            self._next = ended + max(self.least_s, REST * self.last_cost_s)
