"""What it costs to save a stroke: time until it is durable and visible to the run, and how long the viewer waits.

    python benchmarks/annotation.py --out benchmarks/results/annotation-cpu.json
    xvfb-run -a python benchmarks/annotation.py --viewer --out benchmarks/results/annotation-cpu.json

The volume has 256 × 512 × 512 voxels, as a slice is 512 × 512. A stroke is a disc of 41 voxels in one plane, at random.
`stroke` is the whole of a save off the event loop: find what differs from the saved copy, write the chunks of all
levels, make them durable, count the revision up. `made_ready` is done once, as the brush is taken up for the first time. With `--viewer` the same strokes are painted on the panel's layer in
a viewer, and a timer of 5 ms says how long the event loop was held up while a save was under way, against the same
strokes on a layer that nobody saves.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import record

from napari_crln.gui.annotation_saver import AnnotationSaver
from napari_crln.volume import annotation
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume

SHAPE = (256, 512, 512)
RADIUS = 20


class Here:
    """A background that works at once, so that what it takes can be timed."""

    def run(self, work: Callable[[], Any], done: Callable[[Any], None], _failed: Any) -> None:
        done(work())

    def stream(self, *_: Any) -> Any:
        raise NotImplementedError


def main() -> None:
    options = _parse()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        volume = _volume(Path(folder))
        results: dict[str, Any] = {"shape": list(SHAPE), "strokes": options.strokes}
        results |= _saving(volume, options.strokes)
        if options.viewer:
            results["viewer"] = _viewer(volume, options.strokes)
    print(results)
    if options.out is not None:
        record(options.out, ["python", *sys.argv], results, [0])


def _volume(folder: Path) -> Volume:
    project = Project.create(folder / "p.crln", ClassTable.from_ids({"background": 0, "organ": 1}))
    image = np.zeros(SHAPE, np.uint8)
    image[::2] = 3
    return project.add("v", image, Grid.from_spacing(SHAPE, (1.0, 0.7, 0.7)), "unlabelled")


def _saving(volume: Volume, count: int) -> dict[str, Any]:
    array = np.zeros(SHAPE, np.uint8)
    saver = AnnotationSaver(
        volume.path.parents[1],
        volume.name,
        lambda: array,
        0,
        array.copy(),
        Here(),
        lambda state: _check(state.error),
    )
    settle, annotation.settle = annotation.settle, lambda _: None  # comes after the save, and is timed apart
    rng, times, tidied = np.random.default_rng(0), [], []
    ready = _seconds(saver.prepare)  # as the brush is taken up
    for index in range(count + 1):
        paint(array, rng, 1 + index % 2)
        times.append(_seconds(saver.save))
        tidied.append(_seconds(lambda: settle(volume.path)))
    annotation.settle = settle
    saver.close()
    return {
        "made_ready_s": ready,
        "first_stroke_ms": round(1e3 * times[0], 1),
        "stroke_ms": _quantiles(times[1:]),
        "settling_ms": _quantiles(tidied[1:]),
    }


def paint(array: NDArray[np.uint8], rng: np.random.Generator, value: int) -> None:
    """A disc in a plane."""
    d, h, w = (int(rng.integers(RADIUS, n - RADIUS)) for n in SHAPE)
    disc = np.hypot(*np.ogrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]) <= RADIUS
    array[d, h - RADIUS : h + RADIUS + 1, w - RADIUS : w + RADIUS + 1][disc] = value


def _viewer(volume: Volume, count: int) -> dict[str, Any]:
    """Gaps between beats of the event loop while strokes are saved, and while none is."""
    import napari
    from qtpy.QtWidgets import QApplication

    from napari_crln.gui.widgets.panel import CrlnPanel

    viewer = napari.Viewer()
    panel = CrlnPanel(viewer)
    viewer.window.add_dock_widget(panel, area="right")
    session, app = panel.session, QApplication.instance()
    session.presenter.open_project(volume.path.parents[1])
    _until(app, lambda: session.annotation.layer(volume.name) is not None)
    layer, rng = session.annotation.layer(volume.name), np.random.default_rng(1)
    layer.visible = False  # strokes below are painted on the array: drawing them is napari's cost, not ours
    _until(app, lambda: False, 3.0)
    saved, alone = [], []
    for index in range(count):
        paint(layer.data, rng, 1 + index % 2)
        session.annotator.touch(volume.name)
        saved.append(max(_beats(app, lambda: not session.annotator.state(volume.name).pending)))
        alone.append(max(_beats(app, lambda: False, 0.6)))
    viewer.close()
    return {"longest_gap_while_saving_ms": _quantiles(saved), "longest_gap_at_rest_ms": _quantiles(alone)}


def _beats(app: Any, done: Callable[[], bool], seconds: float = 30.0) -> list[float]:
    """Seconds between beats of a 5 ms timer until `done`."""
    from qtpy.QtCore import QTimer

    beats = [time.perf_counter()]
    timer = QTimer()
    timer.timeout.connect(lambda: beats.append(time.perf_counter()))
    timer.start(5)
    _until(app, done, seconds)
    timer.stop()
    beats.append(time.perf_counter())
    return [b - a for a, b in pairwise(beats)]


def _until(app: Any, done: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.perf_counter() + seconds
    while not done() and time.perf_counter() < end:
        app.processEvents()
        time.sleep(0.0005)


def _seconds(do: Callable[[], Any]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def _check(error: str) -> None:
    if error:
        raise RuntimeError(error)


def _quantiles(seconds: list[float]) -> dict[str, float]:
    p50, p95, p100 = np.quantile(seconds, (0.5, 0.95, 1.0)).tolist()
    return {"median": round(1e3 * p50, 1), "p95": round(1e3 * p95, 1), "max": round(1e3 * p100, 1)}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--strokes", type=int, default=40)
    parser.add_argument("--viewer", action="store_true", help="also measure the event loop; needs a display")
    parser.add_argument("--folder", type=Path, help="where the project is made: on the disk that is meant")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
