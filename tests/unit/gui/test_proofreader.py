"""Accept, restore, roles and export behind the panel's buttons, on real project folders; no Qt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from panel_fakes import AtOnce, Launcher

from napari_crln import durable
from napari_crln.events import INBOX, Checkpointed, Started, Validated, dump_line
from napari_crln.gui import obstacles
from napari_crln.gui.exporter import Exporter
from napari_crln.gui.model import PanelModel
from napari_crln.gui.predictor import Predictor
from napari_crln.gui.presenter import Presenter
from napari_crln.gui.proofreader import Proofreader
from napari_crln.gui.questions import before_accepting, before_role
from napari_crln.types import Role
from napari_crln.volume.accept import Plane
from napari_crln.volume.project import Project
from napari_crln.volume.sample import make_sample_project

SHAPE = (16, 16, 16)
LABELLED, UNLABELLED, VALIDATION, TEST = (f"phantom_{number:03}" for number in range(4))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of four volumes, all with predictions."""
    folder = tmp_path_factory.mktemp("projects") / "small.crln"
    path = make_sample_project(folder, SHAPE, ("labelled", "unlabelled", "validation", "test"), preset=None)
    for volume in Project.open(path).volumes.values():
        volume.write_prediction(np.random.default_rng(1).integers(0, 4, SHAPE, np.uint8))
    return path


class Desk:
    """What a panel has, without threads."""

    def __init__(self) -> None:
        self.model, self.background, self.launcher = PanelModel(), AtOnce(), Launcher()
        self.presenter = Presenter(self.model, self.background, self.launcher)
        self.predictor = Predictor(self.model, self.background, lambda: None, self.launcher)
        self.proofreader = Proofreader(
            self.model, self.background, self.presenter.labels_changed, self.presenter.refresh_volumes
        )
        self.exporter = Exporter(self.model, self.background)

    @property
    def now(self) -> Any:
        return self.model.snapshot

    def show(self, name: str) -> None:
        self.presenter.show_volume(name)

    def write(self, *events: Any) -> None:
        with self.now.run.folder.joinpath("events.jsonl").open("ab") as log:
            log.writelines(map(dump_line, events))
        self.background.pump()

    def train(self) -> None:
        self.presenter.start()
        self.write(
            Started(
                step=0, method="crln", iterations=9, pid=1, host="h", labelled=1, unlabelled=1, parameters=1
            )
        )


@pytest.fixture(autouse=True)
def _without_syncing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "sync", lambda path: None)


@pytest.fixture
def desk(sample: Path, tmp_path: Path) -> Desk:
    desk = Desk()
    desk.presenter.open_project(Path(shutil.copytree(sample, tmp_path / "p.crln")))
    return desk


def test_an_accepted_volume_shows_in_the_table_and_the_user_is_told_what_became_of_it(desk: Desk) -> None:
    desk.show(UNLABELLED)
    desk.proofreader.accept()
    row = desk.now.shown_row
    assert (row.role, row.coverage, row.revision, row.restorable) == ("labelled", "dense", 1, (0,))
    assert "was unlabelled and is labelled now" in desk.now.message.text
    assert (desk.now.message.level, desk.now.busy) == ("info", "")


def test_a_slice_is_accepted_and_restored(desk: Desk) -> None:
    before = Project.open(desk.now.project.path).volume(LABELLED).read_annotation()
    desk.show(LABELLED)
    desk.proofreader.accept(Plane(2, 5))
    assert desk.now.shown_row.restorable == (1, 0)
    assert "history/annotation-1" in desk.now.message.text
    desk.proofreader.restore(1)
    volume = Project.open(desk.now.project.path).volume(LABELLED)
    np.testing.assert_array_equal(volume.read_annotation(), before)
    assert desk.now.shown_row.revision == 3


def test_the_run_that_trains_hears_of_new_labels(desk: Desk) -> None:
    desk.train()
    desk.show(UNLABELLED)
    desk.proofreader.accept(Plane(0, 3))
    files = sorted((desk.now.run.folder / INBOX).glob("[!.]*.json"))
    sent = [json.loads(file.read_text()) for file in files]
    assert {"command": "labels_changed", "volume": UNLABELLED, "revision": 1} in sent


@pytest.mark.parametrize("name", [VALIDATION, TEST])
def test_volumes_that_measure_models_accept_no_prediction(name: str, desk: Desk) -> None:
    desk.show(name)
    assert "no truth" in obstacles.to_accept(desk.now)
    desk.proofreader.accept()
    assert (desk.now.message.level, desk.now.shown_row.revision) == ("warning", 1)


def test_a_fault_of_the_files_is_a_message_and_frees_the_panel(desk: Desk) -> None:
    desk.show(UNLABELLED)
    shutil.rmtree(desk.now.project.path / "volumes" / f"{UNLABELLED}.zarr" / "labels" / "prediction")
    desk.proofreader.accept()
    assert (desk.now.message.level, desk.now.busy) == ("error", "")
    assert "prediction" in desk.now.message.text
    assert not desk.now.shown_row.predicted  # read again


def test_the_question_names_what_happens_and_where_the_old_is_kept(desk: Desk) -> None:
    rows = {row.name: row for row in desk.now.project.volumes}
    whole, plane = before_accepting(rows[LABELLED], None), before_accepting(rows[UNLABELLED], Plane(0, 7))
    assert f"{LABELLED}.zarr/history/annotation-1" in whole.details
    assert "16 × 16 × 16" in whole.details
    assert "slice 7 along D" in plane.text
    assert "becomes labelled" in plane.details
    assert "becomes labelled" not in whole.details


@pytest.mark.parametrize(
    ("name", "role", "asks"),
    [
        (TEST, "labelled", "labels are trained on"),
        (VALIDATION, "unlabelled", "image is trained on"),
        (LABELLED, "unlabelled", None),
        (LABELLED, "test", None),  # nothing was trained so far
    ],
)
def test_a_role_is_asked_for_where_measuring_ends(
    name: str, role: Role, asks: str | None, desk: Desk
) -> None:
    desk.show(name)
    question = before_role(desk.now, role)
    assert (question is None) if asks is None else (question is not None and asks in question.details)


def test_a_volume_that_runs_have_seen_measures_later_ones_only(desk: Desk) -> None:
    desk.train()
    desk.show(LABELLED)
    question = before_role(desk.now, "test")
    assert question is not None
    assert "later ones only" in question.details


def test_roles_change_but_not_into_what_the_volume_cannot_be_nor_under_a_run(desk: Desk) -> None:
    desk.show(UNLABELLED)
    assert "no labels" in obstacles.to_set_role(desk.now, "labelled")
    desk.proofreader.set_role("labelled")
    assert desk.now.shown_row.role == "unlabelled"
    desk.proofreader.set_role("test")
    assert Project.open(desk.now.project.path).volume(UNLABELLED).role == desk.now.shown_row.role == "test"
    desk.proofreader.set_role("unlabelled")
    desk.train()
    desk.proofreader.set_role("test")
    assert desk.now.shown_row.role == "unlabelled"
    assert "stop it" in desk.now.message.text


def test_predictions_are_exported_bit_for_bit_and_never_overwritten(desk: Desk, tmp_path: Path) -> None:
    out = tmp_path / "out"
    desk.exporter.export(out)
    assert desk.now.export.running
    desk.background.pump(20)
    assert (desk.now.export.running, desk.now.message.level) == (False, "info")
    volume = Project.open(desk.now.project.path).volume(TEST)
    written = nib.load(out / f"{TEST}.nii.gz")
    np.testing.assert_array_equal(
        np.asarray(written.dataobj), volume.source.to_file(volume.read_prediction())
    )
    before = {file: file.read_bytes() for file in out.iterdir()}
    assert len(before) == 4
    desk.exporter.export(out)
    desk.background.pump(20)
    assert (desk.now.message.level, desk.now.export.running) == ("error", False)
    assert "4 of 4 files that would be written exist;" in desk.now.message.text
    assert {file: file.read_bytes() for file in out.iterdir()} == before


def test_a_cancelled_export_keeps_what_is_done_and_says_so(desk: Desk, tmp_path: Path) -> None:
    desk.exporter.export(tmp_path / "out")
    desk.background.pump(3)  # planned, first announced, first written and second announced
    assert (desk.now.export.done, desk.now.export.total, desk.now.export.name) == (1, 4, UNLABELLED)
    desk.exporter.cancel()
    desk.background.pump(20)
    assert not desk.now.export.running
    assert [file.name for file in (tmp_path / "out").iterdir()] == [f"{LABELLED}.nii.gz"]
    assert "cancelled" in desk.now.message.text


def test_the_best_checkpoint_can_be_chosen_once_there_is_one(desk: Desk) -> None:
    desk.train()
    desk.predictor.choose(checkpoint="best")
    desk.write(Checkpointed(step=1, path="x"))
    assert "validation" in obstacles.to_predict(desk.now)
    desk.write(Validated(step=1, dice=0.5, per_class={}, per_volume={}, best=True))
    desk.predictor.predict((LABELLED,))
    assert desk.launcher.last.arguments[-4:] == ["--volume", LABELLED, "--checkpoint", "best"]


def test_a_runs_folder_opens_its_project_and_is_watched(desk: Desk) -> None:
    desk.presenter.start()
    first, project = desk.now.run.folder, desk.now.project.path
    desk.write(Checkpointed(step=1, path="x"))
    again = Desk()
    again.presenter.open_project(first)
    assert (again.now.project.path, again.now.run.folder) == (project, first)
