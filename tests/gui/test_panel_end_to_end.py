"""One walk through the panel as a new user takes it, with a real child process on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog

from napari_crln.volume.sample import make_sample_project

pytestmark = [pytest.mark.gui, pytest.mark.slow, pytest.mark.timeout(400)]

SHAPE = (16, 32, 32)
ROLES = ("labelled", "labelled", "unlabelled", "unlabelled", "test")
#: A net so small that a step takes a tenth of a second.
TINY = (
    "network.base_filters=4; network.dropout=false; batches.labelled=1; batches.unlabelled=1; "
    "method.rectification.after=2; method.dim.prototypes=2; method.dim.width=8; predicting.overlap=0.0; "
    "engine.threads=1; engine.preview_share=0.5"
)


def test_from_sample_data_to_prediction(
    panel: Any, tmp_path: Path, wait: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, viewer = panel.session, panel.session.viewer
    model, presenter = session.model, session.presenter
    assert not panel.train.train_button.isEnabled()
    assert "Open a project" in panel.train.why.text()

    chosen = str(tmp_path / "phantoms.crln")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (chosen, ""))
    small = partial(make_sample_project, shape=SHAPE, roles=ROLES, preset=None)  # the true one takes minutes
    monkeypatch.setattr("napari_crln.volume.sample.make_sample_project", small)
    panel.project.sample_button.click()
    wait(panel.train.train_button.isEnabled)
    wait(lambda: "phantom_000" in [layer.name for layer in viewer.layers])
    assert panel.project.table.rowCount() == len(model.snapshot.project.volumes)
    presenter.set_form(iterations=100_000, device="cpu", settings=TINY)
    for key in ("pseudo_label", "clues"):
        panel.live.ticks[key].setChecked(True)

    panel.train.train_button.click()
    wait(lambda: model.snapshot.run.state not in ("idle", "starting"), 120)
    assert model.snapshot.run.state == "training", model.snapshot.message.text
    wait(lambda: len(model.curves.losses.get("total", ())) >= 2)
    panel.curves.refresh()
    drawn = panel.curves.plots[0].listDataItems()
    assert len(drawn) == len(model.curves.losses)
    live = session.live
    wait(lambda: live.layer("prediction") is not None and live.layer("clues") is not None, 120)
    _placed_like_the_volume(live.layer("clues"), viewer.layers["phantom_000"])
    wait(lambda: panel.suggest.list.count() > 0, 120)
    unlabelled = tuple(row.name for row in model.snapshot.project.volumes if row.role == "unlabelled")
    assert panel.suggest.list.item(0).text().startswith(unlabelled)
    first = live.layer("clues").data
    wait(lambda: not np.array_equal(live.layer("clues").data, first), 120)

    panel.train.pause_button.click()
    wait(lambda: model.snapshot.run.state == "paused")
    step = model.snapshot.run.progress.step
    assert panel.train.pause_button.text() == "Res&ume"
    panel.train.pause_button.click()
    wait(lambda: model.snapshot.run.progress.step > step)
    panel.train.stop_button.click()
    wait(lambda: model.snapshot.run.state == "stopped")

    panel.predict.shown_button.click()
    assert panel.predict.cancel_button.isVisibleTo(panel)
    wait(lambda: not model.snapshot.prediction.running, 120)
    assert model.snapshot.message.level == "info", model.snapshot.message.text
    wait(lambda: "phantom_000 prediction" in [layer.name for layer in viewer.layers])
    wait(lambda: model.snapshot.project.row("phantom_000").predicted)
    assert not model.snapshot.project.row("phantom_001").predicted


def _placed_like_the_volume(layer: Any, image: Any) -> None:
    np.testing.assert_allclose(layer.affine.affine_matrix, image.affine.affine_matrix)
    assert layer.units == image.units
    assert layer.data.shape == image.data.shape
    assert layer.data.dtype == np.uint8
