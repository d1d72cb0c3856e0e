"""The list of slices to annotate next, without Qt: which run's, when it is read, and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panel_fakes import AtOnce, Later, Launcher

from napari_crln.config import build
from napari_crln.events import SUGGESTIONS_FILE
from napari_crln.gui import obstacles
from napari_crln.gui.model import PanelModel
from napari_crln.gui.project_files import read_project
from napari_crln.gui.run_view import RunView
from napari_crln.gui.suggesting import SliceSuggester
from napari_crln.gui.suggestions import PICTURE, Place, SuggestionFeed, picture
from napari_crln.run.folder import RunFolder
from napari_crln.suggestions import Suggestion, Suggestions
from napari_crln.volume.project import Project
from napari_crln.volume.sample import make_sample_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects") / "small.crln"
    return make_sample_project(folder, (16, 28, 20), ("labelled", "unlabelled", "validation"))


def _list(*indices: int, step: int = 1) -> Suggestions:
    items = tuple(
        Suggestion(volume="phantom_001", axis=0, index=i, score=0.5, uncertainty=3.0, novelty=0.2, why="why")
        for i in indices
    )
    return Suggestions(step=step, surveyed=2, volumes=2, items=items)


def _write(folder: Path, text: str) -> None:
    (folder / "aside").write_text(text)
    (folder / "aside").replace(folder / SUGGESTIONS_FILE)


class Desk:
    def __init__(self, project: Path, background: AtOnce) -> None:
        self.model, self.background = PanelModel(), background
        self.feed = SuggestionFeed(self.model, background)
        self.pictured: list[Any] = []
        self.feed.pictured.connect(self.pictured.append)
        self.run = RunFolder.create(project, build({"method": {"name": "supervised"}})).path
        self.model.update(project=read_project(project).project, run=RunView(folder=self.run))

    def tick(self) -> None:
        self.feed.tick()
        self.background.pump(10)


def test_the_list_of_the_watched_run_is_read_once_until_it_is_replaced(project: Path) -> None:
    desk = Desk(project, AtOnce())
    desk.tick()
    assert desk.model.snapshot.suggestions is None
    _write(desk.run, _list(3, 7).model_dump_json())
    desk.tick()
    first = desk.model.snapshot.suggestions
    assert first == _list(3, 7)
    desk.tick()
    assert desk.model.snapshot.suggestions is first
    _write(desk.run, _list(7, step=2).model_dump_json())
    desk.tick()
    assert desk.model.snapshot.suggestions == _list(7, step=2)


def test_pictures_come_one_by_one_known_ones_are_kept_and_unlisted_ones_dropped(project: Path) -> None:
    desk = Desk(project, AtOnce())
    _write(desk.run, _list(3, 7).model_dump_json())
    desk.tick()
    places = [Place("phantom_001", 0, index) for index in (3, 7)]
    assert desk.pictured == places
    kept = desk.feed.pictures[places[1]]
    _write(desk.run, _list(7, 9).model_dump_json())
    desk.tick()
    assert desk.pictured[2:] == [Place("phantom_001", 0, 9)]
    assert desk.feed.pictures[places[1]] is kept
    assert places[0] not in desk.feed.pictures


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_picture_is_the_slice_in_true_proportions(project: Path, axis: int) -> None:
    opened = Project.open(project)
    volume = opened.volume("phantom_001")
    made = picture(opened, Place("phantom_001", axis, 5))
    sides = [n * s for a, (n, s) in enumerate(zip(volume.grid.shape, volume.grid.spacing)) if a != axis]  # noqa: B905
    assert max(made.shape) == PICTURE
    assert made.shape[0] / made.shape[1] == pytest.approx(sides[0] / sides[1], rel=0.05)
    true = np.take(volume.read_image(), 5, axis).astype(float)
    rows, columns = ((np.arange(n) * m // n) for n, m in zip(made.shape, true.shape, strict=True))
    assert np.corrcoef(made.ravel(), true[np.ix_(rows, columns)].ravel())[0, 1] > 0.5
    assert (made.min(), made.max()) == (0, 255)


def test_another_run_shows_its_own_list_and_late_answers_are_dropped(project: Path) -> None:
    desk = Desk(project, background := Later())
    _write(desk.run, _list(3).model_dump_json())
    desk.feed.tick()
    other = RunFolder.create(project, build({"method": {"name": "supervised"}})).path
    desk.model.update(run=RunView(folder=other))
    desk.feed.tick()  # the first is still being read
    background.answer()
    assert desk.model.snapshot.suggestions is None
    _write(other, _list(8).model_dump_json())
    desk.feed.tick()
    background.answer()
    assert desk.model.snapshot.suggestions == _list(8)


def test_a_damaged_list_is_told_once(project: Path) -> None:
    desk = Desk(project, AtOnce())
    _write(desk.run, "{")
    desk.tick()
    assert SUGGESTIONS_FILE in desk.model.snapshot.message.text
    desk.model.say("something else")
    desk.tick()
    assert desk.model.snapshot.message.text == "something else"


def test_a_run_out_of_training_is_asked_by_the_command_line(project: Path) -> None:
    desk, launcher = Desk(project, AtOnce()), Launcher()
    suggester = SliceSuggester(desk.model, desk.background, launcher)
    suggester.suggest()
    assert "no checkpoint" in desk.model.snapshot.message.text
    desk.model.update(run=RunView(folder=desk.run, state="stopped", checkpointed=True))
    suggester.suggest()
    child = launcher.last
    assert child.arguments == ["suggest", str(project), "--run", desk.run.name, "--publish", "--json"]
    assert desk.model.snapshot.suggesting
    assert obstacles.to_suggest(desk.model.snapshot)
    child.code = 5
    child.log.write_text("napari-crln: no sound checkpoint\n")
    desk.background.pump()
    assert not desk.model.snapshot.suggesting
    assert "no sound checkpoint" in desk.model.snapshot.message.text
    desk.model.update(run=RunView(folder=desk.run, state="training", checkpointed=True))
    assert "keeps the list" in obstacles.to_suggest(desk.model.snapshot)
