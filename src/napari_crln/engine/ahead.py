"""Reading ahead of the step: what a step needs is a function of its number, so it can be made before it is asked."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Results of `make(step)`, made by threads for the steps that follow the one that was taken last.

    Parameters
    ----------
    make : called on a thread, with step numbers in any order; an error is raised by the `take` of its step
    steps : made in advance; 0: each is made when it is taken
    threads : that many steps at once
    """

    def __init__(self, make: Callable[[int], T], steps: int, threads: int = 2) -> None:
        self._make, self._steps = make, steps
        self._pending: dict[int, Future[T]] = {}
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="read-ahead")
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def take(self, step: int) -> T:
        """The step's result; the next ones are begun, and those of other steps forgotten."""
        wanted = range(step, step + self._steps + 1)
        for stale in set(self._pending) - set(wanted):
            self._pending.pop(stale).cancel()
        for number in wanted:
            if number not in self._pending:
                self._pending[number] = self._pool.submit(self._make, number)
        return self._pending.pop(step).result()

    def forget(self) -> None:
        """Drop what was made in advance, as when what it was made from has changed."""
        for future in self._pending.values():
            future.cancel()
        self._pending.clear()
