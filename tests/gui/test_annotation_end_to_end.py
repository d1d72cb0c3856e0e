"""Painting while a real child process trains: the run has the stroke, and the panel says so."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_crln.volume.project import Project

pytestmark = [pytest.mark.gui, pytest.mark.slow, pytest.mark.timeout(300)]

TINY = (
    "network.base_filters=4; network.dropout=false; batches.labelled=1; batches.unlabelled=1; "
    "method.rectification.after=2; method.dim.prototypes=2; method.dim.width=8; engine.threads=1; "
    "engine.preview_share=0.5; engine.suggestions=false"
)


def test_a_stroke_and_a_correction_reach_the_run_that_trains(
    panel: Any, sample: Path, tmp_path: Path, wait: Callable[..., None]
) -> None:
    path = Path(shutil.copytree(sample, tmp_path / "live.crln"))
    session, name = panel.session, "phantom_002"
    model, presenter = session.model, session.presenter
    presenter.open_project(path)
    wait(lambda: session.volumes.shown)
    presenter.show_volume(name)
    wait(lambda: session.annotation.layer(name) is not None)
    layer = session.annotation.layer(name)
    presenter.set_form(iterations=100_000, device="cpu", settings=TINY)
    presenter.tick_map("pseudo_label", True)
    wait(panel.train.train_button.isEnabled)
    panel.train.train_button.click()
    wait(lambda: model.snapshot.run.progress.step >= 1, 120)

    layer.data_setitem(tuple(np.array([v]) for v in (5, 9, 9)), 2)
    wait(lambda: name in model.snapshot.run.labels_taken, 60)
    assert model.snapshot.run.labels_taken[name][0] == 1
    wait(lambda: "Training has it since iteration" in panel.annotate.saving.text())
    wait(lambda: model.snapshot.project.row(name).role == "labelled")

    wait(lambda: session.live.layer("pseudo_label") is not None, 120)
    panel.annotate.correct.setChecked(True)
    session.annotation.begin_correction()
    axis, index = session.volumes.position()
    assert layer.data.take(index, axis).min() > 0, "the slice begins as the pseudo-label"
    wait(lambda: model.snapshot.run.labels_taken[name][0] == 2, 60)
    stored = Project.open(path).volumes[name]
    np.testing.assert_array_equal(stored.read_annotation(), layer.data)
    panel.train.stop_button.click()
    wait(lambda: model.snapshot.run.state == "stopped")
