"""Threads behind the presenter's `Background`: work elsewhere, results on the main thread.

The work is done by `thread_worker`s of superqt, which napari's are; ours start and run otherwise (`_OnPythonThread`) and
share one signal object, which lives as long as the bridge. A stream's generator yields None when idle, so that one that
was told to end does so within a poll. After `close` nothing is called.
Why so: docs/decisions/0004-threads-of-the-panel.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from qtpy.QtCore import QObject, Qt, QTimer, Signal
from superqt.utils import FunctionWorker, GeneratorWorker, thread_worker

T = TypeVar("T")
_LONGEST_WAIT_S = 3.0
_Call = Callable[[], None]


class _OnPythonThread:
    """What is ours in a worker: `start` and `run`. Signals, `work` and `quit` are superqt's.

    - It runs on a thread of Python's. Qt's pool has as many threads as the machine has cores, so that two followers could
      leave no other work any, and waits at exit for one that hangs on a network drive; and a test sees a leaked thread
      only if Python knows it.
    - superqt's `run` reroutes the warnings of the whole process for as long as it lasts.
    """

    thread: threading.Thread | None = None

    def start(self: Any) -> None:
        name = f"crln-{type(self).__name__.strip('_').lower()}"
        self.thread = threading.Thread(target=self.run, name=name, daemon=True)
        self.thread.start()

    def run(self: Any) -> None:
        with suppress(RuntimeError):  # at the interpreter's end, when Qt is gone
            outcome = self.work()
            if not self.abort_requested:
                self.returned.emit(outcome)


class _Job(_OnPythonThread, FunctionWorker):
    """Does one thing."""


class _Follower(_OnPythonThread, GeneratorWorker):
    """Follows something until it ends, or is told to."""

    def run(self) -> None:
        super().run()
        self._gen.close()  # of one that was told to end, here and now


class _Relay(QObject):
    """The signals of all workers, and the slot that makes the calls that they yield and return.

    A signal object of a worker's own would be deleted with it, by whichever thread forgets it last, and what is under way lost.
    """

    yielded = Signal(object)
    returned = Signal(object)
    aborted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        for signal in (self.yielded, self.returned):
            signal.connect(self.make, Qt.ConnectionType.QueuedConnection)

    def make(self, call: _Call | None) -> None:
        if call is not None and not self.closed:
            call()


class Bridge:
    """Runs work for one panel, in workers."""

    def __init__(self) -> None:
        self._relay = _Relay()
        self._workers: list[Any] = []
        self._timers: list[QTimer] = []

    def run(
        self, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        """Do `work` in a thread; then call `done` or `failed` here."""

        def job() -> _Call:
            try:
                return partial(done, work())
            except Exception as error:
                return partial(failed, error)

        self._start(thread_worker(job, worker_class=_Job, ignore_errors=True)())

    def stream(
        self,
        items: Callable[[], Iterator[T | None]],
        each: Callable[[T], None],
        ended: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> Callable[[], None]:
        """Call `each` here with what a generator yields in a thread; returns what ends it."""

        def unless_let_go(call: _Call) -> None:
            if not worker.abort_requested:
                call()

        def follow() -> Iterator[_Call | None]:
            try:
                for item in items():
                    yield None if item is None else partial(unless_let_go, partial(each, item))
                yield partial(unless_let_go, ended)
            except Exception as error:
                yield partial(unless_let_go, partial(failed, error))

        worker = thread_worker(follow, worker_class=_Follower, ignore_errors=True)()
        self._start(worker)

        def let_go() -> None:
            worker.quit()

        return let_go

    def every(self, seconds: float, call: Callable[[], None]) -> None:
        """Call again and again on this thread, until closed."""
        timer = QTimer(self._relay)
        timer.setInterval(round(seconds * 1000))
        timer.timeout.connect(lambda: None if self._relay.closed else call())
        timer.start()
        self._timers.append(timer)

    def close(self) -> None:
        """End all work, and wait for it a while; afterwards nothing is called any more."""
        if self._relay.closed:
            return
        self._relay.closed = True
        for timer in self._timers:
            with suppress(RuntimeError):  # Qt has deleted it
                timer.stop()
        for worker in self._workers:
            worker.quit()
        for worker in self._workers:
            worker.thread.join(_LONGEST_WAIT_S)

    def _start(self, worker: Any) -> None:
        if self._relay.closed:
            return
        worker.signals = self._relay
        worker.start()
        self._workers = [*(each for each in self._workers if each.thread.is_alive()), worker]
