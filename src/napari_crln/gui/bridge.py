"""napari's thread workers behind the presenter's `Background`: work in threads, results on the main thread.

They are superqt's, which napari re-exports: napari's own subclasses also list each worker among the window's tasks,
and a follower that lives as long as its panel would make napari ask at every closing whether to wait for it.

A stream's generator yields None when idle, so that a worker that was told to quit ends within a poll. `close`
quits all, waits for them, and lets nothing through afterwards: a panel that is gone gets no more calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from qtpy.QtCore import QObject, QThreadPool, QTimer
from superqt.utils import FunctionWorker, GeneratorWorker

T = TypeVar("T")
_LONGEST_WAIT_MS = 3000


class Bridge:
    """Runs work for one panel, on threads of its own."""

    def __init__(self) -> None:
        self._pool = QThreadPool()
        self._workers: set[Any] = set()
        self._timers: list[QTimer] = []
        self._closed = False

    def run(
        self, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        """Do `work` in a thread; then call `done` or `failed` here."""
        self._start(FunctionWorker(work), failed, {"returned": done})

    def stream(
        self,
        items: Callable[[], Iterator[T | None]],
        each: Callable[[T], None],
        ended: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> Callable[[], None]:
        """Call `each` here with what a generator yields in a thread; returns what ends it."""

        def generate() -> Iterator[T | None]:
            yield from items()

        def take(item: T | None) -> None:
            if item is not None:
                each(item)

        worker = self._start(
            GeneratorWorker(generate), failed, {"yielded": take, "returned": lambda _: ended()}
        )
        return lambda: self._let_go(worker)

    def every(self, seconds: float, call: Callable[[], None], parent: QObject | None = None) -> None:
        """Call again and again on this thread, until closed."""
        timer = QTimer(parent)
        timer.setInterval(round(seconds * 1000))
        timer.timeout.connect(lambda: None if self._closed else call())
        timer.start()
        self._timers.append(timer)

    def close(self) -> None:
        """End all work; afterwards nothing is called any more."""
        if self._closed:
            return
        self._closed = True
        for timer in self._timers:
            timer.stop()
            timer.deleteLater()
        self._timers.clear()
        for worker in tuple(self._workers):
            worker.quit()
        self._pool.waitForDone(_LONGEST_WAIT_MS)
        self._workers.clear()

    def _start(
        self,
        worker: Any,
        failed: Callable[[Exception], None],
        calls: dict[str, Callable[[Any], None]],
    ) -> Any:
        if self._closed:
            return None
        self._workers.add(worker)
        for signal, call in {**calls, "errored": failed}.items():
            getattr(worker, signal).connect(self._guarded(worker, call))
        worker.finished.connect(lambda: self._workers.discard(worker))
        self._pool.start(worker)
        return worker

    def _guarded(self, worker: Any, call: Callable[[Any], None]) -> Callable[[Any], None]:
        """Nothing reaches a closed panel, nor comes from a stream that was let go."""

        def guarded(value: Any = None) -> None:
            if not self._closed and worker in self._workers:
                call(value)

        return guarded

    def _let_go(self, worker: Any) -> None:
        if worker is not None:
            self._workers.discard(worker)
            worker.quit()
