"""Who holds up napari's event loop: what the main thread was doing while a beat of a timer did not come.

A thread looks at the main thread's Python stack every 5 ms once no beat has come for 10 ms, so that the longest pauses can
be told by their cause: drawing the canvas (in OpenGL, which without a GPU Mesa does on the CPU), other work of napari's,
asked for by the panel (a layer that is added) or not, Python's collection of garbage, which begins in whatever function happens to
run, or the panel's own work.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections import Counter
from types import FrameType
from typing import Any

#: Pauses longer than this are told of, ms.
LATE_MS = 50
_LOOK_S, _LOOK_AFTER_S = 0.005, 0.01
_MOST = 5
OWN = "panel"
_PANEL, _NAPARI = "/napari_crln/", "/napari/"
#: Functions that draw the canvas, and where they are.
_DRAWING = (
    ("vispy", {"draw", "on_draw", "paintGL", "swap_buffers", "_finish", "glFinish"}),
    ("napari/_vispy/canvas", {"on_draw"}),
)


class Holdups:
    """Between `with` and its end; `beat()` is called by a timer on the main thread."""

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._last = time.perf_counter()
        self._ended = threading.Event()
        self._seen: Counter[str] = Counter()
        self.longest: list[dict[str, Any]] = []
        #: Of all pauses, told of or not, the most that was the panel's own work, ms.
        self.most_own_ms = 0.0
        self._collecting = False
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Holdups:
        gc.callbacks.append(self._on_collection)
        self._last = time.perf_counter()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._on_collection)
        self._ended.set()
        self._watcher.join()

    def beat(self) -> None:
        """The event loop runs again."""
        now = time.perf_counter()
        held_ms = 1000 * (now - self._last)
        self._last = now
        seen, self._seen = self._seen, Counter()
        if not seen:
            return
        own = sum(count for place, count in seen.items() if place.startswith(OWN)) / seen.total()
        self.most_own_ms = max(self.most_own_ms, held_ms * own)
        if held_ms > LATE_MS:
            where = {place: round(count / seen.total(), 2) for place, count in seen.most_common(3)}
            pause = {"ms": round(held_ms, 1), "own_ms": round(held_ms * own, 1), "where": where}
            self.longest = sorted([*self.longest, pause], key=lambda each: -each["ms"])[:_MOST]

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_S):
            if time.perf_counter() - self._last > _LOOK_AFTER_S:
                frame = sys._current_frames().get(self._main)
                self._seen["garbage collected" if self._collecting else _where(frame)] += 1

    def _on_collection(self, phase: str, _info: dict[str, int]) -> None:
        self._collecting = phase == "start"


def _where(frame: FrameType | None) -> str:
    """The cause, and the function that is running.

    The panel's own work is what runs with no function of napari's above it; what napari does when the panel calls
    it, such as adding a layer, is napari's.
    """
    stack = []
    while frame is not None:
        stack.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    if any(path in file and name in names for file, name in stack for path, names in _DRAWING):
        return f"canvas drawn (OpenGL): {_told(stack)}"
    for file, _ in stack:
        if _PANEL in file:
            return f"{OWN}: {_told(stack)}"
        if _NAPARI in file:
            asked = next((_short(f, n) for f, n in stack if _PANEL in f), None)
            return f"napari, asked by {asked}: {_told(stack)}" if asked else f"napari: {_told(stack)}"
    return _told(stack)


def _short(file: str, name: str) -> str:
    return f"{'/'.join(file.split('/')[-2:])} {name}"


def _told(stack: list[tuple[str, str]]) -> str:
    """The innermost function outside of the standard library."""
    own = (each for each in stack if "site-packages" in each[0] or "napari_crln" in each[0])
    file, name = next(own, stack[0] if stack else ("?", "?"))
    return _short(file, name)
