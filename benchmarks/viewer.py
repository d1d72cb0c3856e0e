"""How long an update of the live layers keeps napari's event loop busy, in 2D and in 3D.

    xvfb-run -s "-screen 0 1600x1000x24" python benchmarks/viewer.py --out benchmarks/results/viewer.json

A viewer with a volume and four live layers gets frame after frame, as the panel draws them: a layer every 50 ms.
Nothing trains meanwhile. Of each update are given:

- `layers_ms`: what the calls that change the layers took, all four together; `layers_cpu_ms`: their CPU time, which
  other programs on the machine do not lengthen;
- `loop_ms`: the longest time that a 1 ms timer of the event loop was kept waiting until all was drawn: what a click
  would have waited for, the drawing of the canvas included; `loop_cpu_ms`: the most CPU time of the main thread
  between two beats of it;
- `redraw_ms`: the same for a redraw of the canvas without new data. On a machine without a GPU, Mesa draws on the
  CPU, and most of `loop_ms` is that, above all in 3D.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication
from record import record

from napari_crln.gui.layer_data import placement
from napari_crln.gui.live_layers import LiveLayers
from napari_crln.gui.preview_feed import Frame, MapPicture
from napari_crln.previews import Quantisation, symmetric, unit
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.phantom import CLASSES, phantom_cohort

KEYS = ("prediction", "changed", "uncertainty", "clues")
SCALES = {"uncertainty": unit(), "clues": symmetric(-4, 4)}
_SETTLE_S = 0.1
_TICK_MS = 50  # of the panel's feed


class Drawing:
    """Draws an update part by part, as the panel's timer does, and adds up what the parts take."""

    def __init__(self, parts: Iterator[None]) -> None:
        self.wall_s = self.cpu_s = 0.0
        self.done = False
        self._parts = parts

    def start(self) -> None:
        wall, cpu = time.perf_counter(), time.thread_time()
        self.done = next(self._parts, self) is self
        self.wall_s += time.perf_counter() - wall
        self.cpu_s += time.thread_time() - cpu
        if not self.done:
            QTimer.singleShot(_TICK_MS, self.start)


class Beats:
    """The longest pause between two beats of a 1 ms timer, and the most CPU time of this thread in one, ms."""

    def __init__(self) -> None:
        self.longest = self.most_cpu = 0.0
        self._last, self._last_cpu = time.perf_counter(), time.thread_time()
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._beat)
        self._timer.start(1)

    def during(
        self, act: Callable[[], None], done: Callable[[], bool], settle_s: float
    ) -> tuple[float, float]:
        """Act in the event loop, as a timer's callback would, until it is done and for a while after."""
        _run_for(0.05)
        self.longest = self.most_cpu = 0.0
        QTimer.singleShot(0, act)
        _run_for(settle_s)
        while not done():
            _run_for(settle_s)
        self._beat()  # what is still kept waiting counts too
        return self.longest, self.most_cpu

    def stop(self) -> None:
        self._timer.stop()

    def _beat(self) -> None:
        now, cpu = time.perf_counter(), time.thread_time()
        self.longest = max(self.longest, 1000 * (now - self._last))
        self.most_cpu = max(self.most_cpu, 1000 * (cpu - self._last_cpu))
        self._last, self._last_cpu = now, cpu


def main() -> None:
    options = _parse()
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*options.window)
    try:
        results = {f"{d}d": _measure(viewer, options, d) for d in options.displays}
    finally:
        viewer.close()
    for name, found in results.items():
        print(name, {key: {k: round(v, 1) for k, v in value.items()} for key, value in found.items()})
    if options.out:
        settings = {
            "shape": list(options.shape),
            "updates": options.updates,
            "maps": list(KEYS),
            "window": list(options.window),
            "load": os.getloadavg()[0],
        }
        record(options.out, ["python", *sys.argv], {"settings": settings, **results}, [options.seed])


def _measure(viewer: Any, options: argparse.Namespace, ndisplay: int) -> dict[str, dict[str, float]]:
    shape, rng = tuple(options.shape), np.random.default_rng(options.seed)
    viewer.layers.clear()
    viewer.dims.ndisplay = 2
    made = next(iter(phantom_cohort(1, options.seed, shape)))
    grid = Grid.from_spacing(shape, (1.0, 1.0, 1.0))
    viewer.add_image(made.image, contrast_limits=(0, 255), **placement(grid))
    live = LiveLayers(viewer, print, print, lambda: None)
    classes = tuple(ClassTable.from_ids({"background": 0} | {name: i + 1 for i, name in enumerate(CLASSES)}))

    def draw(number: int) -> Drawing:
        return Drawing(live.showing(_frame(made.labels, number, rng), grid, classes, frozenset(KEYS)))

    live.show(_frame(made.labels, 1, rng), grid, classes, frozenset(KEYS))
    viewer.dims.ndisplay = ndisplay
    _run_for(2.0)
    beats, drawn, loops, redraws = Beats(), [], [], []
    canvas = viewer.window._qt_viewer.canvas.native
    for number in range(2, options.updates + 2):
        drawn.append(draw(number))
        loops.append(beats.during(drawn[-1].start, lambda: drawn[-1].done, options.settle))
        redraws.append(beats.during(canvas.update, lambda: True, options.settle))
    beats.stop()
    live.close()
    viewer.layers.clear()
    return {
        "layers_ms": _told([1000 * each.wall_s for each in drawn]),
        "layers_cpu_ms": _told([1000 * each.cpu_s for each in drawn]),
        "loop_ms": _told([wall for wall, _ in loops]),
        "loop_cpu_ms": _told([cpu for _, cpu in loops]),
        "redraw_ms": _told([wall for wall, _ in redraws]),
    }


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
    parser.add_argument(
        "--window", type=int, nargs=2, default=(1200, 800), help="pixels; small without a GPU, in 3D"
    )
    parser.add_argument("--settle", type=float, default=_SETTLE_S, help="seconds waited after each update")
    parser.add_argument("--displays", type=int, nargs="+", default=(2, 3))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
