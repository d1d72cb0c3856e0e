"""How the panel feels: from opening it to a prediction, by the clock, as a new user walks through it.

    xvfb-run -s "-screen 0 1600x1000x24" python benchmarks/panel.py --out benchmarks/results/panel-cpu.json

One process is napari with the panel; the run is a child process on all cores, as the Train button starts it. Measured:

- `open_s`: from asking napari for the widget to a drawn panel (napari itself is open already), and whether torch was imported;
- `first_loss_s`, `first_layers_s`: from the click on Train to the first point on a curve and to the first live layer;
- `lateness_ms`: how late a 10 ms timer of the viewer's event loop fires while the run trains: percentiles in 2D and in 3D,
  once the first layers are there, for as long as it trains; with the longest pauses and what the main thread did
  meanwhile (holdups.py);
- `pauses`: of the event loop in each step of the walk, those over 50 ms: how long, how much of it was the panel's own work (the
  rest is napari's, which draws, adds a layer or takes it away), and by what; `most_own_ms`: of all pauses of the step;
- `curves_ms`: one redraw of the loss curves, painting included, with 10⁵ points on each of five lines;
- `dice`: of the prediction of a held-out sample volume by the panel, against its truth, and when it was there (`predicted_s`).

Needs napari with a Qt binding and a display; on an idle machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import napari
import numpy as np
from holdups import Holdups
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication
from record import record

from napari_crln.events import Stepped
from napari_crln.gui.curves import Curves
from napari_crln.gui.widgets.curves_section import CurvesSection
from napari_crln.volume.project import Project

_BEAT_MS = 10
_SECONDS_3D = 20.0
_AFTER_S = 1.0  # what a step sets off is drawn


class Lateness:
    """A timer of 10 ms, and how much later than that it fired, in ms."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self._last: float | None = None
        self._holdups = Holdups()
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(_BEAT_MS)
        self._timer.timeout.connect(self._beat)

    def _beat(self) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.late.append(max(0.0, (now - self._last) * 1000 - _BEAT_MS))
        self._last = now
        self._holdups.beat()

    def __enter__(self) -> Lateness:
        self._holdups.__enter__()
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.stop()
        self._holdups.__exit__()

    def summary(self) -> dict[str, Any]:
        values = np.array(self.late)
        p50, p99 = np.percentile(values, (50, 99))
        return {
            "p50": float(p50),
            "p99": float(p99),
            "max": float(values.max()),
            "beats": len(values),
            "most_own_ms": self._holdups.most_own_ms,
            "longest": self._holdups.longest,
        }


class Walk:
    """The pauses of the event loop in the steps of a walk."""

    def __init__(self) -> None:
        self.pauses: dict[str, Any] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        with Lateness() as found:
            yield
            _wait(_AFTER_S)
        summary = found.summary()
        self.pauses[name] = {key: summary[key] for key in ("most_own_ms", "longest")}


def main() -> None:
    options = _parse()
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1500, 950)
    _wait(1.0)
    with tempfile.TemporaryDirectory() as folder:
        results = _walk(viewer, Path(folder), options)
    viewer.close()
    for key, value in results.items():
        print(f"{key}: {value}")
    if options.out:
        record(options.out, ["python", *sys.argv], results, [0])


def _walk(viewer: Any, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    began = time.perf_counter()
    _, panel = viewer.window.add_plugin_dock_widget("napari-crln")
    QApplication.processEvents()
    results: dict[str, Any] = {
        "open_s": time.perf_counter() - began,
        "torch_imported": "torch" in sys.modules,
    }
    path = folder / "phantoms.crln"
    model, walk = panel.session.model, Walk()
    with walk.step("make the sample"):
        panel.session.presenter.make_sample(path)
        _until(lambda: panel.train.train_button.isEnabled() and len(viewer.layers) > 0, 120)
    try:
        results |= _train(viewer, panel, options, walk)
        results |= _predict(panel, path, results.pop("clicked"), walk)
        _look_around(panel, folder, walk)
        results["pauses"] = walk.pauses
        results["curves_ms"] = _curves()
    finally:
        if model.snapshot.run.active:
            panel.session.presenter.stop()
            _until(lambda: not model.snapshot.run.active, 60)
    panel.close()
    return results


def _curves(points: int = 99_900, redraws: int = 20) -> dict[str, float]:
    curves = Curves()
    terms = ("total", "supervised", "consistency", "clues", "cps")
    noise = np.random.default_rng(0).random((points + redraws, len(terms)))
    for step, values in enumerate(noise[:points]):
        curves.add(_stepped(step, dict(zip(terms, values, strict=True))))
    section = CurvesSection(curves, "#262930", dark=True)
    section.resize(400, 300)
    section.show()
    _wait(0.5)
    spent = []
    for step, values in enumerate(noise[points:], points):
        curves.add(_stepped(step, dict(zip(terms, values, strict=True))))
        began = time.perf_counter()
        section.refresh()
        section.repaint()
        QApplication.processEvents()
        spent.append((time.perf_counter() - began) * 1000)
    section.close()
    section.deleteLater()
    return {"p50": float(np.median(spent)), "max": max(spent), "points": len(curves.losses["total"])}


def _stepped(step: int, losses: dict[str, float]) -> Stepped:
    return Stepped(step=step, interval=1, losses=losses, learning_rate=0.1, rate=1.0)


def _train(viewer: Any, panel: Any, options: argparse.Namespace, walk: Walk) -> dict[str, Any]:
    model, live = panel.session.model, panel.session.live
    if options.iterations:
        panel.session.presenter.set_form(iterations=options.iterations)
    form = model.snapshot.form
    with walk.step("train until the first live layers"):
        clicked = time.perf_counter()
        panel.train.train_button.click()
        _until(lambda: any(len(points) for points in model.curves.losses.values()), 120)
        loss = time.perf_counter() - clicked
        _until(lambda: live.layer("prediction") is not None, 120)
        layers = time.perf_counter() - clicked
    with Lateness() as flat:
        _until(lambda: not model.snapshot.run.active or len(flat.late) * _BEAT_MS > 30_000, 600)
    viewer.dims.ndisplay = 3
    _wait(2.0)
    with Lateness() as solid:
        end = time.perf_counter() + _SECONDS_3D
        _until(lambda: not model.snapshot.run.active or time.perf_counter() > end, 600)
    viewer.dims.ndisplay = 2
    _until(lambda: not model.snapshot.run.active, 600)
    trained = time.perf_counter() - clicked
    state = model.snapshot.run.state
    return {
        "form": vars(form) if not hasattr(form, "__slots__") else str(form),
        "state": state,
        "first_loss_s": loss,
        "first_layers_s": layers,
        "trained_s": trained,
        "rate": model.snapshot.run.progress.rate,
        "lateness_ms": {"2D": flat.summary(), "3D": solid.summary()},
        "clicked": clicked,
    }


def _look_around(panel: Any, folder: Path, walk: Walk) -> None:
    """Volumes as they are chosen in the table, again, and another project."""
    presenter, volumes = panel.session.presenter, panel.session.volumes
    names = [row.name for row in panel.session.model.snapshot.project.volumes][:6]
    for step in ("show five volumes", "show them again"):
        with walk.step(step):
            for name in names[1:]:
                presenter.show_volume(name)
                _until(lambda name=name: volumes.shown == name, 60)
                _wait(_AFTER_S)
    with walk.step("open another project"):
        presenter.make_sample(folder / "others.crln")
        _until(lambda: panel.session.model.snapshot.project.name == "others" and bool(volumes.shown), 120)


def _predict(panel: Any, path: Path, clicked: float, walk: Walk) -> dict[str, Any]:
    model = panel.session.model
    name = Project.open(path).with_role("test")[0].name
    panel.session.presenter.show_volume(name)
    _until(lambda: panel.session.volumes.shown == name, 60)
    with walk.step("predict a volume"):
        panel.predict.shown_button.click()
        _until(
            lambda: not model.snapshot.prediction.running and model.snapshot.project.row(name).predicted, 300
        )
        seconds = time.perf_counter() - clicked
    volume = Project.open(path).volume(name)
    found, truth = volume.read_prediction(), volume.read_targets()
    dice = {
        c.name: 2
        * float(((found == c.index) & (truth == c.index)).sum())
        / float((found == c.index).sum() + (truth == c.index).sum())
        for c in volume.classes
        if c.index
    }
    return {
        "volume": name,
        "dice": dice,
        "dice_mean": float(np.mean(list(dice.values()))),
        "predicted_s": seconds,
    }


def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it took too long")
        QApplication.processEvents()
        time.sleep(0.001)


def _wait(seconds: float) -> None:
    end = time.monotonic() + seconds
    _until(lambda: time.monotonic() > end, seconds + 60)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--iterations", type=int, help="default: the sample's own")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
