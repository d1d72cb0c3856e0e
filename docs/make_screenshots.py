"""Make the pictures of the panel: the true panel, trained on the sample project for two minutes.

    xvfb-run -s "-screen 0 1600x1000x24" python docs/make_screenshots.py [--out docs/images] [--iterations 115]

Needs napari with a Qt binding and a display (Xvfb and Mesa will do). Nothing in the pictures is drawn by hand.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QScrollArea

from napari_crln.gui.live_maps import LIVE_MAPS
from napari_crln.gui.widgets.panel import CrlnPanel

SIZE = (1500, 950)
#: Pixels of a voxel in the pictures of the live layers.
PIXELS = 7


def main() -> None:
    """Train in a viewer and take pictures on the way."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*SIZE)
    with tempfile.TemporaryDirectory() as folder:
        panel = CrlnPanel(viewer)
        dock = viewer.window.add_dock_widget(panel, name="CRLN: train and segment", area="right")
        try:
            _tour(viewer, panel, Path(folder), options)
        finally:
            if panel.session.model.snapshot.run.active:
                panel.session.presenter.stop()
                _until(lambda: not panel.session.model.snapshot.run.active, 60)
            panel.close()
            viewer.window.remove_dock_widget(dock)
            viewer.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--iterations", type=int, help="default: the sample's own")
    return parser.parse_args()


def _tour(viewer: Any, panel: CrlnPanel, folder: Path, options: argparse.Namespace) -> None:
    def shot(name: str) -> None:
        _wait(0.5)
        viewer.screenshot(str(options.out / f"{name}.png"), canvas_only=False, flash=False)
        print(name, flush=True)

    model, presenter = panel.session.model, panel.session.presenter
    shot("panel-empty")
    presenter.make_sample(folder / "phantoms.crln")
    _until(lambda: model.snapshot.project is not None and len(viewer.layers) > 0, 120)
    if options.iterations:
        presenter.set_form(iterations=options.iterations)
    shot("panel-project")
    presenter.show_volume(_unlabelled(model.snapshot))
    panel.train.train_button.click()
    iterations = model.snapshot.form.iterations
    _until(lambda: model.snapshot.run.progress.step >= iterations * 6 // 10, 600)
    _until(lambda: _step(panel, "prediction") >= iterations * 4 // 10, 300)
    shot("panel-training")
    for key in ("clues", "prediction"):
        presenter.tick_map(key, key == "clues")
    _until(lambda: panel.session.live.layer("clues") is not None, 300)
    panel.findChild(QScrollArea).ensureWidgetVisible(panel.live)
    shot("panel-clues")
    _live_layers(viewer, panel, options)
    _annotate(viewer, panel)
    shot("panel-annotate")
    _until(lambda: model.snapshot.run.state == "finished", 600)
    panel.predict.shown_button.click()
    _until(lambda: not model.snapshot.prediction.running, 300)
    _until(lambda: any(layer.name.endswith(" prediction") for layer in viewer.layers), 60)
    for spec in LIVE_MAPS:
        presenter.tick_map(spec.key, False)
    _until(lambda: model.snapshot.shown_row.predicted, 60)
    viewer.dims.ndisplay = 3
    viewer.layers[f"{model.snapshot.shown} annotation"].visible = False
    viewer.scene.camera.angles = (-10, 35, -160)
    panel.findChild(QScrollArea).ensureWidgetVisible(panel.predict)
    shot("panel-3d")


def _step(panel: CrlnPanel, key: str) -> int:
    """Of training that a live layer shows; -1 without the layer."""
    layer = panel.session.live.layer(key)
    return -1 if layer is None else int(layer.metadata["crln"]["step"])


def _unlabelled(now: Any) -> str:
    return next(row.name for row in now.project.volumes if row.role == "unlabelled")


def _annotate(viewer: Any, panel: CrlnPanel) -> None:
    """Correct a slice with the mouse while it trains, and wait until the run has taken it and suggests slices."""
    session, canvas = panel.session, viewer.window._qt_viewer.canvas.native
    for spec in LIVE_MAPS:
        session.presenter.tick_map(spec.key, spec.key == "prediction")
    panel.annotate.correct.setChecked(True)
    panel.annotate.paint.click()
    layer = viewer.layers.selection.active
    layer.selected_label, layer.brush_size = 2, 3
    middle = canvas.rect().center()
    QTest.mousePress(canvas, Qt.MouseButton.LeftButton, pos=middle)
    for step in range(12):
        QTest.mouseMove(canvas, middle + QPoint(-4 * step, 6 * step))
        _wait(0.02)
    QTest.mouseRelease(canvas, Qt.MouseButton.LeftButton, pos=middle + QPoint(-48, 72))
    volume = session.model.snapshot.shown
    _until(lambda: volume in session.model.snapshot.run.labels_taken, 120)
    _until(lambda: session.model.snapshot.suggestions is not None, 300)
    panel.findChild(QScrollArea).ensureWidgetVisible(panel.suggest)


def _live_layers(viewer: Any, panel: CrlnPanel, options: argparse.Namespace) -> None:
    """One picture of the canvas for each live layer over the image: paused, so that all show the same step."""
    model, live = panel.session.model, panel.session.live
    panel.session.presenter.pause()
    _until(lambda: model.snapshot.run.state == "paused", 60)
    for spec in LIVE_MAPS:
        panel.session.presenter.tick_map(spec.key, True)
    _until(lambda: all(live.layer(spec.key) is not None for spec in LIVE_MAPS), 300)
    _wait(3.0)
    step = model.snapshot.run.progress.step
    depths = live.layer("anchors").data[:, 0].round().astype(int)
    viewer.dims.set_current_step(0, int(np.bincount(depths).argmax()))  # the slice with most anchors
    for spec in LIVE_MAPS:
        for other in LIVE_MAPS:
            live.layer(other.key).visible = other.key == spec.key
        _until(lambda key=spec.key: _step(panel, key) == step, 120)
        _wait(1.5)
        viewer.export_figure(str(options.out / f"live-{spec.key}.png"), scale_factor=PIXELS, flash=False)
        print(f"live-{spec.key}", flush=True)
    panel.session.presenter.resume()


def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it took too long")
        _wait(0.05)


def _wait(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    main()
