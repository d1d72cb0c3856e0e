"""An orderly end on SIGTERM, which the panel sends to cancel, and SIGUSR1: what is written aside is removed, and the code is 130.

Training, once it has something to save, heeds them itself: it ends with a checkpoint (`engine.control.Interrupts`).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 130  # as shells have it for Ctrl-C
_ENDING = ("SIGTERM", "SIGUSR1")  # Windows has no SIGUSR1


@contextmanager
def orderly_end() -> Iterator[None]:
    """Signals unwind the block, as Ctrl-C does; outside the main thread, where Python takes no signals, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    before = {number: signal.signal(number, _leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _leave(_number: int, _frame: Any) -> None:
    raise SystemExit(INTERRUPTED)
