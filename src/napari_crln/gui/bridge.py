"""Threads behind the presenter's `Background`: work elsewhere, results on the main thread.

One relay object lives as long as the bridge and carries every result over as a queued signal. (napari's `thread_worker`
makes a signal object a worker, whose end is decided by two threads at once: letting go of a running one crashed; it
also lists each worker among the window's tasks, so that a follower would make napari ask at every closing, and reroutes the
process's warnings for as long as one runs.) A stream's
generator yields None when idle, so that one that was told to end does so within a poll. After `close` nothing is called.
Why so: docs/decisions/0004-threads-of-the-panel.md.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from qtpy.QtCore import QObject, Qt, QTimer, Signal

T = TypeVar("T")
_LONGEST_WAIT_S = 3.0


class _Relay(QObject):
    """Calls on its own thread what other threads hand in."""

    arrived = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.arrived.connect(self._call, Qt.ConnectionType.QueuedConnection)

    def hand_in(self, call: Callable[[], None]) -> None:
        """From any thread; nothing once Qt is gone."""
        with suppress(RuntimeError):
            self.arrived.emit(call)

    def _call(self, call: Callable[[], None]) -> None:
        if not self.closed:
            call()


class Bridge:
    """Runs work for one panel, on threads of its own."""

    def __init__(self) -> None:
        self._relay = _Relay()
        self._threads: dict[threading.Thread, threading.Event] = {}
        self._timers: list[QTimer] = []

    def run(
        self, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        """Do `work` in a thread; then call `done` or `failed` here."""
        relay = self._relay

        def job(_ended: threading.Event) -> None:
            result = work()
            relay.hand_in(partial(done, result))

        self._start("run", job, failed)

    def stream(
        self,
        items: Callable[[], Iterator[T | None]],
        each: Callable[[T], None],
        ended: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> Callable[[], None]:
        """Call `each` here with what a generator yields in a thread; returns what ends it."""
        relay, let_go = self._relay, threading.Event()

        def deliver(item: T) -> None:
            if not let_go.is_set():
                each(item)

        def job(closing: threading.Event) -> None:
            for item in items():
                if let_go.is_set() or closing.is_set():
                    return
                if item is not None:
                    relay.hand_in(partial(deliver, item))
            relay.hand_in(ended)

        self._start("stream", job, failed)
        return let_go.set

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
        for ended in self._threads.values():
            ended.set()
        for thread in tuple(self._threads):
            thread.join(_LONGEST_WAIT_S)

    def _start(
        self, name: str, job: Callable[[threading.Event], None], failed: Callable[[Exception], None]
    ) -> None:
        if self._relay.closed:
            return
        relay, closing = self._relay, threading.Event()

        def work() -> None:
            try:
                job(closing)
            except Exception as error:
                relay.hand_in(partial(failed, error))

        self._threads = {t: e for t, e in self._threads.items() if t.is_alive()}
        thread: Any = threading.Thread(target=work, name=f"crln-{name}", daemon=True)
        self._threads[thread] = closing
        thread.start()
