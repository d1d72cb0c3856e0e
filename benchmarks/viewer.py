"""How long an update of the live layers keeps napari's event loop busy, in 2D and in 3D.

    xvfb-run -s "-screen 0 1600x1000x24" python benchmarks/viewer.py --out benchmarks/results/viewer.json

A viewer with a volume and four live layers gets frame after frame, as the panel draws them, and nothing trains
meanwhile. Timed are, for each update: `update_ms`, the call that changes the layers; and `loop_ms`, the longest time
that a 1 ms timer of the event loop was kept waiting from then on until the canvas was drawn, so all that a user's
click would wait for, drawing included. `redraw_ms` is the same for a redraw of the canvas without new data:
on a machine without a GPU, Mesa draws on the CPU, and most of `loop_ms` in 3D is that.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication
from record import record

from napari_crln.gui.live_layers import LiveLayers
from napari_crln.gui.preview_feed import Frame, MapPicture
from napari_crln.previews import Quantisation, symmetric, unit
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.phantom import CLASSES, phantom

KEYS = ("prediction", "changed", "uncertainty", "clues")
SCALES = {"uncertainty": unit(), "clues": symmetric(-4, 4)}
_SETTLE_S = 0.3


class Beats:
    """The longest pause between two beats of a 1 ms timer, ms."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = time.perf_counter()
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._beat)
        self._timer.start(1)

    def during(self, act: Callable[[], None], seconds: float = _SETTLE_S) -> float:
        """Act in the event loop, as a timer's callback would, and wait until all that follows is done."""
        _run_for(0.05)
        self.longest = 0.0
        QTimer.singleShot(0, act)
        _run_for(seconds)
        return self.longest

    def stop(self) -> None:
        self._timer.stop()

    def _beat(self) -> None:
        now = time.perf_counter()
        self.longest = max(self.longest, 1000 * (now - self._last))
        self._last = now


def main() -> None:
    options = _parse()
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1200, 800)
    try:
        results = {f"{d}d": _measure(viewer, options, d) for d in options.displays}
    finally:
        viewer.close()
    for name, found in results.items():
        print(name, {key: {k: round(v, 1) for k, v in value.items()} for key, value in found.items()})
    if options.out:
        settings = {"shape": list(options.shape), "updates": options.updates, "maps": list(KEYS)}
        record(options.out, ["python", *sys.argv], {"settings": settings, **results}, [options.seed])


def _measure(viewer: Any, options: argparse.Namespace, ndisplay: int) -> dict[str, dict[str, float]]:
    shape, rng = tuple(options.shape), np.random.default_rng(options.seed)
    viewer.layers.clear()
    viewer.dims.ndisplay = 2
    made = phantom(options.seed, shape)
    grid = Grid.from_spacing(shape, (1.0, 1.0, 1.0))
    viewer.add_image(made.image, contrast_limits=(0, 255))
    live = LiveLayers(viewer, lambda key: None, lambda key: None, lambda: None)
    classes = tuple(ClassTable.from_ids({"background": 0} | {name: i + 1 for i, name in enumerate(CLASSES)}))

    def show(number: int) -> float:
        frame = _frame(made.labels, number, rng)
        began = time.perf_counter()
        live.show(frame, grid, classes, frozenset(KEYS))
        return 1000 * (time.perf_counter() - began)

    show(1)
    viewer.dims.ndisplay = ndisplay
    _run_for(2.0)
    beats, updates, loops, redraws = Beats(), [], [], []
    canvas = viewer.window._qt_viewer.canvas.native
    for number in range(2, options.updates + 2):
        loops.append(beats.during(lambda number=number: updates.append(show(number)), options.settle))
        redraws.append(beats.during(canvas.update, options.settle))
    beats.stop()
    live.close()
    return {"update_ms": _told(updates), "loop_ms": _told(loops), "redraw_ms": _told(redraws)}


def _frame(labels: Any, number: int, rng: np.random.Generator) -> Frame:
    """Maps that move from frame to frame, as those of a network that learns."""
    moved = np.roll(labels, number % 7, axis=2).astype(np.uint8)
    noise = rng.integers(0, 256, labels.shape, dtype=np.uint8)
    maps = {
        "prediction": moved,
        "changed": np.where(noise > 250, moved + 1, 0).astype(np.uint8),
        "uncertainty": (noise // 4 + 60 * (moved > 0)).astype(np.uint8),
        "clues": (128 + (moved.astype(int) * 40 - 20) + noise // 8).clip(0, 255).astype(np.uint8),
    }
    pictures = {k: MapPicture(v, SCALES.get(k, Quantisation())) for k, v in maps.items()}
    return Frame("a", number, number, labels.shape, pictures)


def _told(values: list[float]) -> dict[str, float]:
    return {
        "p50": float(np.percentile(values, 50)),
        "p99": float(np.percentile(values, 99)),
        "max": max(values),
    }


def _run_for(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        QApplication.processEvents()
        time.sleep(0.0002)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(80, 112, 112))
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--settle", type=float, default=_SETTLE_S, help="seconds waited after each update")
    parser.add_argument("--displays", type=int, nargs="+", default=(2, 3))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
