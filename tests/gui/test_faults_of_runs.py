"""What a viewer and the run it watches do to each other when one of them meets its end: real processes, killed for real."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_crln.gui.following import is_trained
from napari_crln.lock import holder
from napari_crln.run.folder import runs
from napari_crln.run.launch import launch
from napari_crln.volume.sample import make_sample_project

pytestmark = [pytest.mark.gui, pytest.mark.slow, pytest.mark.timeout(400)]

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"
TINY = (
    "network.base_filters=2; network.dropout=false; batches.labelled=1; batches.unlabelled=1; batches.patch=[16,16,16]; "
    "method.rectification.after=2; method.dim.prototypes=2; method.dim.width=4; engine.threads=1; "
    "engine.preview_share=0.5; engine.suggestions=false; engine.checkpoint_every=3"
)
#: A death that is told within this time at the first, second or third try: a busy machine may be late.
PROMPT_S, TRIES = 2.0, 3


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A project of this test's own."""
    return make_sample_project(
        tmp_path / "own.crln", (16, 32, 32), ("labelled", "labelled", "unlabelled"), preset=None
    )


@pytest.fixture
def train(panel: Any, own: Path, wait: Callable[..., None]) -> Callable[..., Path]:
    """Start a run by the panel, and wait for its first checkpoint."""

    def start(settings: str = TINY) -> Path:
        session = panel.session
        session.presenter.open_project(own)
        wait(panel.train.train_button.isEnabled)
        session.presenter.set_form(iterations=100_000, device="cpu", settings=settings)
        panel.train.train_button.click()
        wait(lambda: session.model.snapshot.run.checkpointed, 200)
        folder = session.model.snapshot.run.folder
        assert folder is not None
        return Path(folder)

    return start


def _stop(panel: Any, wait: Callable[..., None]) -> None:
    panel.train.stop_button.click()
    wait(lambda: panel.session.model.snapshot.run.state == "stopped", 100)


def _inspected(project: Path) -> None:
    """`inspect` finds the project and its runs sound."""
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    for arguments in ([project, "--verify"], *([run.path] for run in runs(project))):
        command = [sys.executable, "-m", "napari_crln", "inspect", *map(str, arguments), "--json"]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        assert all(each["sound"] for each in json.loads(answer.stdout).get("checkpoints", []))


def test_a_killed_run_is_told_within_two_seconds_and_resume_goes_on(
    panel: Any, own: Path, train: Callable[..., Path], wait: Callable[..., None]
) -> None:
    folder, model = train(), panel.session.model
    took: list[float] = []
    while len(took) < TRIES and min(took, default=PROMPT_S) >= PROMPT_S:
        named = holder(folder)
        assert named is not None
        killed = time.monotonic()
        os.kill(named.pid, signal.SIGKILL)
        wait(lambda: panel.train.pause_button.text().replace("&", "") == "Resume")
        took.append(time.monotonic() - killed)
        assert panel.train.pause_button.isEnabled()
        assert "process is gone" in panel.status.text()
        assert "Resume goes on from its last checkpoint" in panel.status.text()
        reached = model.snapshot.run.progress.step
        panel.train.pause_button.click()
        wait(lambda reached=reached: model.snapshot.run.progress.step > reached, 200)
        assert model.snapshot.run.state == "training"
    assert min(took) < PROMPT_S, took
    _stop(panel, wait)
    _inspected(own)


def test_a_killed_viewer_costs_the_run_nothing_and_another_finds_it(
    panel: Any, own: Path, wait: Callable[..., None], tmp_path: Path
) -> None:
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "HOME": str(tmp_path)}
    script = [sys.executable, str(HERE / "doomed_viewer.py"), str(own), TINY]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True, env=environment) as viewer:
        assert viewer.stdout is not None
        told = [line for line in viewer.stdout if line.startswith("training ")]  # until it dies
    assert viewer.returncode == -signal.SIGKILL
    folder, step = runs(own)[-1].path, int(told[-1].split()[1])
    assert is_trained(folder)

    model = panel.session.model
    panel.session.presenter.open_project(own)
    wait(lambda: model.snapshot.run.folder == folder and model.snapshot.run.progress.step > step, 200)
    assert model.snapshot.run.state == "training"
    _stop(panel, wait)
    wait(lambda: not is_trained(folder))
    _inspected(own)


def test_layers_that_are_deleted_renamed_or_reshaped_do_not_disturb_training_or_each_other(
    panel: Any, own: Path, train: Callable[..., Path], wait: Callable[..., None]
) -> None:
    session, viewer = panel.session, panel.session.viewer
    model, live = session.model, session.live
    keys = ("prediction", "pseudo_label", "uncertainty", "similarity")
    for key in keys:
        session.presenter.tick_map(key, True)
    train()
    wait(lambda: all(live.layer(key) is not None for key in keys), 200)
    shape, place = live.layer("prediction").data.shape, live.layer("prediction").affine.affine_matrix.copy()

    viewer.layers.remove(live.layer("pseudo_label"))
    live.layer("prediction").name = "mine now"
    live.layer("uncertainty").data = np.zeros((3, 5, 7), np.uint8)
    live.layer("similarity").data = np.zeros((5, 7), np.uint8)
    step = model.snapshot.run.progress.step

    def renewed(key: str) -> bool:
        layer = live.layer(key)
        return layer is not None and layer.metadata["crln"]["step"] > step and layer.data.shape == shape

    left = ("prediction", "uncertainty", "similarity")
    wait(lambda: all(renewed(key) for key in left), 200)
    assert live.layer("pseudo_label") is None
    assert "mine now" in [layer.name for layer in viewer.layers]
    for key in left:
        np.testing.assert_allclose(live.layer(key).affine.affine_matrix, place)
    assert model.snapshot.run.state == "training"
    assert model.snapshot.message.level != "error", model.snapshot.message.text
    _stop(panel, wait)
    _inspected(own)


def test_a_run_that_finds_too_little_memory_is_told_and_its_remedy_works_in_the_same_viewer(
    panel: Any, own: Path, wait: Callable[..., None]
) -> None:
    """The allocator of the run's process, a fake one, gives out at patches of 32³."""
    session, model = panel.session, panel.session.model
    session.presenter._launch = partial(
        launch, program=(sys.executable, str(HERE / "short_of_memory.py"), str(16 * 32 * 32 * 2))
    )
    session.presenter.open_project(own)
    wait(panel.train.train_button.isEnabled)
    large = TINY.replace("[16,16,16]", "[16,32,32]").replace("batches.labelled=1", "batches.labelled=2")
    session.presenter.set_form(iterations=3, device="cpu", settings=large)
    panel.train.train_button.click()
    wait(lambda: model.snapshot.run.state == "failed", 200)
    assert "does not fit" in panel.status.text()
    assert "would fit" in panel.status.text()
    remedy = "; ".join(re.findall(r"--set (batches\S+[^\s,;.])", panel.status.text()))
    assert remedy, panel.status.text()

    session.presenter.set_form(settings=f"{large}; {remedy}")
    wait(panel.train.train_button.isEnabled)
    panel.train.train_button.click()
    wait(lambda: model.snapshot.run.state == "finished", 200)
    _inspected(own)
