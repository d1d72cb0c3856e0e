"""What the presenter needs of a thread, so that it needs no Qt: the bridge is one, tests bring another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Background(Protocol):
    """Does work elsewhere and brings the results back to the thread that asked."""

    def run(
        self, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        """Do `work`; then call `done` with its result, or `failed` with its exception."""

    def stream(
        self,
        items: Callable[[], Iterator[T | None]],
        each: Callable[[T], None],
        ended: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> Callable[[], None]:
        """Call `each` with the items that come, None left out, and `ended` after the last; returns what ends it."""
