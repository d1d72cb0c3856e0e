"""The presenter on real project and run folders, with fake processes and written events; no Qt."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from panel_fakes import AtOnce, Later, Launcher

from napari_crln.config import build, load_preset
from napari_crln.events import (
    INBOX,
    Checkpointed,
    Ended,
    Event,
    Paused,
    Previewed,
    Started,
    Stepped,
    Validated,
    dump_line,
)
from napari_crln.gui import obstacles, presenter
from napari_crln.gui.model import LiveChoice, PanelModel
from napari_crln.gui.predictor import Predictor
from napari_crln.gui.presenter import Presenter
from napari_crln.gui.run_view import Preview, RunView, pruned
from napari_crln.run.folder import RunFolder
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.project import Project
from napari_crln.volume.sample import make_sample_project

SHAPE = (16, 16, 16)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects") / "small.crln"
    return make_sample_project(folder, SHAPE, ("labelled", "unlabelled", "validation"), preset=None)


class Desk:
    """A presenter with all that it needs."""

    def __init__(self, background: AtOnce) -> None:
        self.model, self.background, self.launcher = PanelModel(), background, Launcher()
        self.presenter = Presenter(self.model, background, self.launcher)
        self.predicted = 0
        self.predictor = Predictor(self.model, background, self._count, self.launcher)

    def _count(self) -> None:
        self.predicted += 1

    @property
    def now(self) -> Any:
        return self.model.snapshot

    def write(self, *events: Event) -> None:
        with self.now.run.folder.joinpath("events.jsonl").open("ab") as log:
            log.writelines(map(dump_line, events))
        self.background.pump()

    def commands(self) -> list[str]:
        files = sorted((self.now.run.folder / INBOX).glob("[!.]*.json"))
        return [json.loads(file.read_text())["command"] for file in files]


@pytest.fixture
def desk(sample: Path) -> Desk:
    desk = Desk(AtOnce())
    desk.presenter.open_project(sample)
    return desk


@pytest.fixture
def training(desk: Desk) -> Desk:
    desk.presenter.start()
    desk.write(started())
    return desk


def started(step: int = 0) -> Started:
    return Started(
        step=step, method="crln", iterations=100, pid=1, host="h", labelled=1, unlabelled=1, parameters=1
    )


def stepped(step: int, loss: float = 1.0) -> Stepped:
    return Stepped(step=step, interval=1, losses={"total": loss}, learning_rate=0.1, rate=2.0)


def test_opening_shows_the_volumes_and_the_first_of_them(desk: Desk) -> None:
    assert [row.role for row in desk.now.project.volumes] == ["labelled", "unlabelled", "validation"]
    assert [row.coverage for row in desk.now.project.volumes] == ["dense", None, "dense"]
    assert desk.now.shown == desk.now.project.volumes[0].name
    assert not desk.now.busy


def test_what_was_chosen_live_goes_along_to_another_project_but_for_what_is_not_there(
    desk: Desk, tmp_path: Path
) -> None:
    few = tmp_path / "few.crln"
    Project.create(few, ClassTable.from_ids({"background": 0, "body": 1}))
    choice = {"shown": frozenset({"clues"}), "every_s": 2.0, "edited": frozenset({"prediction"})}
    desk.presenter.set_live(class_index=3, **choice)
    desk.presenter.open_project(desk.now.project.path)
    assert desk.now.live == LiveChoice(class_index=3, **choice), "the same one, and its layers stay"
    desk.presenter.open_project(few)
    assert desk.now.project.path == few
    assert desk.now.live == LiveChoice(**choice | {"edited": frozenset()})


def test_a_damaged_volume_is_told_and_left_out_and_the_others_open(sample: Path, tmp_path: Path) -> None:
    project = Path(shutil.copytree(sample, tmp_path / "damaged.crln"))
    names = list(Project.open(project).volumes)
    for file in Project.open(project).volume_path(names[0]).rglob("zarr.json"):
        file.write_text("{")
    desk = Desk(AtOnce())
    desk.presenter.open_project(project)
    assert [bool(row.fault) for row in desk.now.project.volumes] == [True, False, False]
    assert desk.now.shown == names[1]
    assert (desk.now.message.level, names[0] in desk.now.message.text) == ("error", True)
    assert "labelled" in obstacles.to_train(desk.now), "the only labelled one"
    desk.presenter.show_volume(names[0])
    assert desk.now.shown == names[1]


def test_a_folder_that_is_no_project_is_a_message_and_leaves_things_as_they_were(
    desk: Desk, tmp_path: Path
) -> None:
    before = desk.now.project
    desk.presenter.open_project(tmp_path)
    assert desk.now.message.level == "error"
    assert str(tmp_path) in desk.now.message.text
    assert (desk.now.project, desk.now.busy) == (before, "")


def test_the_folder_of_all_runs_is_no_run_and_the_message_says_what_is(desk: Desk) -> None:
    desk.presenter.start()
    desk.presenter.stop()
    desk.presenter.open_project(desk.now.run.folder.parent)
    assert "one run" in desk.now.message.text.partition("; ")[2]


def test_train_makes_a_run_folder_as_the_form_says_and_starts_it(desk: Desk) -> None:
    desk.presenter.set_form(
        method="mean-teacher", iterations=7, device="cpu", settings="seed=3; batches.labelled=1"
    )
    desk.presenter.start()
    folder = desk.now.run.folder
    config = RunFolder.open(folder).config()
    assert (config.method.name, config.iterations, config.seed, config.batches.labelled) == (
        "mean-teacher",
        7,
        3,
        1,
    )
    assert config.batches.patch == SHAPE
    assert desk.launcher.last.arguments == ["train", "--run-folder", str(folder), "--json"]
    assert desk.launcher.last.log.parent == folder
    assert desk.now.run.state == "starting"


def test_a_project_that_names_a_preset_is_trained_with_it(desk: Desk, tmp_path: Path) -> None:
    desk.presenter.make_sample(tmp_path / "s.crln")
    assert (desk.now.form.preset, desk.now.form.iterations) == ("demo", build(load_preset("demo")).iterations)


def test_a_preset_stays_only_where_the_user_chose_it(desk: Desk, sample: Path, tmp_path: Path) -> None:
    before = desk.now.form
    desk.presenter.make_sample(tmp_path / "s.crln")
    desk.presenter.open_project(sample)
    assert desk.now.form == before, "the sample's preset is not this project's"
    desk.presenter.set_form(preset="hippocampus", iterations=77)
    desk.presenter.open_project(sample)
    assert (desk.now.form.preset, desk.now.form.iterations) == ("hippocampus", 77)


def test_a_wrong_setting_is_a_message_and_no_run(desk: Desk) -> None:
    before = desk.now.run.folder, list(desk.now.project.path.glob("runs/*"))
    desk.presenter.set_form(settings="seeed=3")
    desk.presenter.start()
    assert "seeed" in desk.now.message.text
    assert (desk.now.run.folder, list(desk.now.project.path.glob("runs/*"))) == before
    assert (desk.launcher.children, desk.now.busy) == ([], "")


def test_events_become_state_progress_and_curves(training: Desk) -> None:
    training.write(
        stepped(1, 3.0), stepped(2, 2.0), Validated(step=2, dice=0.5, per_class={}, per_volume={"a": 0.5})
    )
    assert training.now.run.state == "training"
    assert training.now.run.progress.step == 2
    assert training.now.run.volume_dice == {"a": 0.5}
    assert list(training.model.curves.losses["total"].values) == [3.0, 2.0]


def test_pause_resume_and_stop_reach_the_inbox(training: Desk) -> None:
    training.presenter.pause()
    assert training.now.run.state == "pausing"
    training.write(Paused(step=1))
    assert training.now.run.state == "paused"
    training.presenter.resume()
    assert training.commands() == ["pause", "resume"]
    training.presenter.stop()
    assert training.now.run.state == "stopping"
    assert training.launcher.last.asked == ["stop"]  # the child's own ladder begins with the command
    training.write(Ended(step=2, reason="stopped"))
    assert training.now.run.state == "stopped"


def test_a_stop_while_it_starts_ends_the_process_since_the_engine_drops_earlier_commands(desk: Desk) -> None:
    desk.presenter.start()
    desk.presenter.stop()
    assert desk.launcher.last.asked == ["terminate"]
    desk.launcher.last.code = -15
    desk.background.pump(30)
    assert (desk.now.run.state, desk.now.message.level) == ("stopped", "info")


def test_resuming_an_ended_run_starts_the_command_line_again(training: Desk) -> None:
    training.write(Ended(step=2, reason="stopped"))
    training.launcher.last.code = 0
    training.presenter.set_form(settings="optimiser.learning_rate=0.02; seed=0")
    training.presenter.resume()
    run = training.now.run
    changes = training.launcher.last.arguments[4:]
    assert changes[:4] == ["--set", "optimiser.learning_rate=0.02", "--set", "seed=0"]
    assert training.launcher.last.arguments[:4] == [
        "resume",
        str(training.now.project.path),
        "--run",
        run.name,
    ]
    assert run.state == "starting"
    training.write(started(2))
    assert training.now.run.state == "training"


def _stopped(training: Desk) -> None:
    """The run's process has ended, and the follower knows."""
    training.write(Ended(step=2, reason="stopped"))
    training.launcher.last.code = 0
    training.background.pump(10)


def test_a_look_before_the_resume_is_no_death_of_the_new_process(training: Desk) -> None:
    _stopped(training)
    training.presenter.resume()
    child = training.launcher.last
    assert "Starting" in training.now.message.text
    training.background.pump(20)
    assert training.now.run.state == "starting", "until its first event, seconds later"
    assert "is being trained" in obstacles.to_resume(training.now)
    training.presenter.resume()
    assert training.launcher.last is child, "no second one"
    child.log.write_text("napari-crln: the disk is full; make room\n")
    child.code = 8
    training.background.pump(30)
    assert (training.now.run.state, training.now.run.note) == ("failed", "the disk is full; make room")


def test_a_run_that_is_resumed_in_a_shell_is_alive(training: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    _stopped(training)
    monkeypatch.setattr(presenter, "is_trained", lambda folder: True)
    training.write(started(2))
    training.background.pump(10)
    assert training.now.run.state == "training"


def test_a_resumed_process_is_told_what_the_one_before_was(training: Desk) -> None:
    training.presenter.set_budget(0.2)
    training.presenter.set_prototype(2)
    training.presenter.focus("phantom_000", 0, 3)
    before = training.commands()
    _stopped(training)
    training.presenter.resume()
    training.write(started(2).model_copy(update={"prototypes": 4}))
    training.presenter.focus("phantom_000", 0, 3)
    assert training.commands()[len(before) :] == ["preview_budget", "preview_similarity", "focus"]


def test_a_process_that_dies_without_a_word_is_a_failure_that_quotes_it(training: Desk) -> None:
    child = training.launcher.last
    child.log.write_text('{"kind":"run"}\nnapari-crln: the disk is full; make room\n')
    child.code = 8
    training.background.pump(30)
    assert training.now.run.state == "failed"
    assert training.now.message.text == "the disk is full; make room"


def test_a_last_event_that_is_read_after_the_end_of_the_process_still_counts(training: Desk) -> None:
    training.launcher.last.code = 0
    training.write(Ended(step=9, reason="finished"))
    training.background.pump(30)
    assert training.now.run.state == "finished"


def test_opening_the_project_again_attaches_to_its_run(training: Desk) -> None:
    training.write(stepped(5), Checkpointed(step=5, path="x"), Ended(step=5, reason="finished"))
    again = Desk(AtOnce())
    again.presenter.open_project(training.now.project.path)
    again.background.pump()
    assert again.now.run.folder == training.now.run.folder
    assert (again.now.run.state, len(again.model.curves.losses["total"])) == ("finished", 1)


def test_news_of_a_run_that_is_no_longer_watched_is_dropped(training: Desk, sample: Path) -> None:
    other = RunFolder.create(sample, build({"iterations": 3}), "other")
    stale = training.background.streams[-1]["each"]
    training.presenter.attach(other.path)
    stale(type("Report", (), {"events": (stepped(50),), "gone": False})())
    assert training.now.run.progress.step == 0


def test_focus_is_sent_while_training_and_only_when_it_changes(training: Desk) -> None:
    for index in (3, 3, 4):
        training.presenter.focus("phantom_000", 0, index)
    assert training.commands() == ["focus", "focus"]


def test_budget_goes_to_the_run_and_into_the_choice(training: Desk) -> None:
    training.presenter.set_budget(0.2)
    assert (training.commands(), training.now.live.budget) == (["preview_budget"], 0.2)


def test_what_was_chosen_before_training_is_told_once_it_has_begun(desk: Desk) -> None:
    desk.presenter.set_budget(0.2)
    desk.presenter.set_prototype(9)
    desk.presenter.start()
    assert desk.commands() == []
    desk.write(started().model_copy(update={"prototypes": 4}))
    assert desk.commands() == ["preview_budget", "preview_similarity"]
    assert desk.now.live.prototype == 4, "a class has no more"
    desk.write(stepped(1))
    assert len(desk.commands()) == 2


def test_history_loses_what_the_run_has_removed_but_not_what_is_shown(training: Desk) -> None:
    training.write(*(Previewed(step=g, generation=g, volume="phantom_000", maps=[]) for g in (1, 2, 3, 4)))
    training.presenter.set_live(generation=1)
    for generation in (3, 4):
        (training.now.run.folder / "preview.zarr" / f"g{generation:08d}").mkdir(parents=True)
    training.presenter.look_for_previews()
    assert [(p.generation, p.kept) for p in training.now.run.previews] == [(1, False), (3, True), (4, True)]
    training.presenter.set_live(generation=None)
    training.presenter.look_for_previews()
    assert [p.generation for p in training.now.run.previews] == [3, 4]


def test_a_generation_that_came_after_the_look_is_not_taken_for_removed() -> None:
    view = RunView(previews=tuple(Preview(g, "a", g) for g in (1, 2, 3)))
    assert [p.generation for p in pruned(view, {2}, newest=2, shown=None).previews] == [2, 3]


def test_another_volume_is_seen_as_it_is_now(training: Desk) -> None:
    training.presenter.set_live(generation=7)
    training.presenter.show_volume("phantom_001")
    assert (training.now.shown, training.now.live.generation) == ("phantom_001", None)


def test_closing_ends_a_run_that_is_starting_by_its_process(desk: Desk) -> None:
    desk.presenter.start()
    desk.model.update(keep_running=False)
    desk.presenter.close()
    assert desk.launcher.children[0].asked == ["terminate"], "a command would be taken for an older run's"
    assert desk.commands() == []


def test_closing_goes_through_where_the_run_folder_is_gone(training: Desk, tmp_path: Path) -> None:
    training.model.update(keep_running=False)
    training.model.update(run=replace(training.now.run, folder=tmp_path / "gone"))
    training.presenter.close()
    assert not any(stream["open"] for stream in training.background.streams)


def test_volumes_that_are_annotated_in_part_are_trained_on_without_unlabelled_ones(desk: Desk) -> None:
    project = desk.now.project
    rows = tuple(replace(row, role="labelled", coverage="sparse") for row in project.volumes)
    desk.model.update(project=replace(project, volumes=rows))
    assert obstacles.to_train(desk.now) == ""


@pytest.mark.parametrize(("keep", "sent"), [(True, []), (False, ["stop"])])
def test_closing_leaves_or_stops_the_run_as_chosen(training: Desk, keep: bool, sent: list[str]) -> None:
    training.model.update(keep_running=keep)
    training.presenter.close()
    assert training.commands() == sent


def test_buttons_say_why_they_are_disabled() -> None:
    desk = Desk(AtOnce())
    assert obstacles.to_train(desk.now) == obstacles.to_predict(desk.now) == "Open a project first."
    desk.presenter.start()
    assert desk.now.message.text == "Open a project first."


def test_while_training_no_second_run_starts(training: Desk) -> None:
    assert "stop it" in obstacles.to_train(training.now)
    training.presenter.start()
    assert len(training.launcher.children) == 1


def test_another_project_is_not_opened_while_one_is_being_opened(sample: Path) -> None:
    desk = Desk(Later())
    desk.presenter.open_project(sample)
    desk.presenter.open_project(sample)
    assert len(desk.background.waiting) == 1  # type: ignore[attr-defined]
    assert desk.now.message.level == "warning"


def test_prediction_is_the_command_line_and_its_progress(training: Desk) -> None:
    training.predictor.predict(("phantom_001",))
    assert "no checkpoint" in training.now.message.text
    training.write(Checkpointed(step=5, path="x"))
    training.predictor.choose(clues=False)
    training.predictor.predict(("phantom_001",))
    child = training.launcher.last
    assert child.arguments[:4] == ["predict", str(training.now.project.path), "--run", training.now.run.name]
    assert child.arguments[4:] == ["--json", "--progress", "--volume", "phantom_001", "--without-clues"]
    with child.log.open("a") as log:
        log.write('{"kind":"progress","done":3,"total":8,"name":"phantom_001"}\n{"kind":"prog')
    training.background.pump()
    view = training.now.prediction
    assert (view.running, view.done, view.total, view.name) == (True, 3, 8, "phantom_001")
    child.code = 0
    training.background.pump()
    assert (training.now.prediction.running, training.predicted) == (False, 1)


def test_cancelling_a_prediction_never_touches_the_run_that_trains(training: Desk) -> None:
    training.write(Checkpointed(step=5, path="x"))
    training.predictor.predict(())
    training.predictor.cancel()
    child = training.launcher.last
    assert (child.asked, training.commands(), training.now.run.state) == (["terminate"], [], "training")
    child.code = -15
    training.background.pump()
    assert "cancelled" in training.now.message.text
