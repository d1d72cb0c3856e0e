"""Who holds up napari's event loop: what the main thread was doing while a beat of a timer did not come.

A thread looks at the main thread's Python stack every 20 ms once a beat is late, so that the longest pauses can be
told by their cause: drawing the canvas (in OpenGL, which without a GPU Mesa does on the CPU), setting a layer's data,
or the panel's own work.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from types import FrameType
from typing import Any

#: A beat later than this is looked into, ms.
LATE_MS = 50
_LOOK_S = 0.02
_MOST = 5
#: What a pause is called by: the first of these that is on the stack, from its top.
_CAUSES = (
    ("canvas drawn (OpenGL)", "vispy", ("draw", "on_draw", "paintGL", "swap_buffers", "_finish", "glFinish")),
    ("canvas drawn (OpenGL)", "napari/_vispy/canvas", ("on_draw",)),
    ("panel", "napari_crln", ()),
    ("napari", "napari/", ()),
)


class Holdups:
    """Between `with` and its end; `beat()` is called by a timer on the main thread."""

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._last = time.perf_counter()
        self._ended = threading.Event()
        self._seen: Counter[str] = Counter()
        self.longest: list[dict[str, Any]] = []
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Holdups:
        self._last = time.perf_counter()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watcher.join()

    def beat(self) -> None:
        """The event loop runs again."""
        now = time.perf_counter()
        held_ms = 1000 * (now - self._last)
        self._last = now
        seen, self._seen = self._seen, Counter()
        if held_ms > LATE_MS and seen:
            where = {place: round(count / seen.total(), 2) for place, count in seen.most_common(3)}
            self.longest = sorted(
                [*self.longest, {"ms": round(held_ms, 1), "where": where}], key=lambda each: -each["ms"]
            )[:_MOST]

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_S):
            if 1000 * (time.perf_counter() - self._last) > LATE_MS:
                self._seen[_where(sys._current_frames().get(self._main))] += 1


def _where(frame: FrameType | None) -> str:
    """The cause, and the function that is running."""
    stack = []
    while frame is not None:
        stack.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    for cause, path, names in _CAUSES:
        if any(path in file and (not names or name in names) for file, name in stack):
            return f"{cause}: {_told(stack)}"
    return _told(stack)


def _told(stack: list[tuple[str, str]]) -> str:
    """The innermost function outside of the standard library."""
    own = (each for each in stack if "site-packages" in each[0] or "napari_crln" in each[0])
    file, name = next(own, stack[0] if stack else ("?", "?"))
    return f"{'/'.join(file.split('/')[-2:])} {name}"
