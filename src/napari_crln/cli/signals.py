"""An orderly end on SIGTERM, which the panel sends to cancel: what is written aside is removed, and the code is 130."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 130  # as shells have it for Ctrl-C


@contextmanager
def orderly_end() -> Iterator[None]:
    """SIGTERM unwinds the block, as Ctrl-C does; outside the main thread, where Python takes no signals, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(_number: int, _frame: Any) -> None:
    raise SystemExit(INTERRUPTED)
