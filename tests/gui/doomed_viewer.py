"""A viewer that trains by its panel and is killed while it watches: `doomed_viewer.py PROJECT SETTINGS`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import napari
from qtpy.QtCore import QTimer

from napari_crln.gui.widgets.panel import CrlnPanel


def main(project: Path, settings: str) -> None:
    viewer = napari.Viewer(show=True)
    panel = CrlnPanel(viewer)
    viewer.window.add_dock_widget(panel, name="crln", area="right")
    presenter, model = panel.session.presenter, panel.session.model
    presenter.open_project(project)
    clicked = []

    def look() -> None:
        run = model.snapshot.run
        if not clicked and panel.train.train_button.isEnabled():
            presenter.set_form(iterations=100_000, device="cpu", settings=settings)
            panel.train.train_button.click()
            clicked.append(True)
        if run.checkpointed and run.state == "training":
            print("training", run.progress.step, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    timer = QTimer()
    timer.timeout.connect(look)
    timer.start(50)
    napari.run()


main(Path(sys.argv[1]), sys.argv[2])
