from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from command_line import TINY, Call

from napari_crln import config
from napari_crln.cli.live import TrainingDisplay
from napari_crln.cli.training import configure
from napari_crln.engine import checkpoint
from napari_crln.events import Checkpointed, Ended, Previewed, Started, Stepped, parse_event
from napari_crln.run.folder import RunFolder, runs
from napari_crln.volume.project import Project


def _only_run(project: Path) -> RunFolder:
    (run,) = runs(project)
    return run


def test_train_writes_events_as_json_lines(call: Call, trained: Path) -> None:
    answer = call("train", trained, "--method", "supervised", "--iterations", 2, "--seed", 5, *TINY, "--json")
    assert answer.code == 0
    first, *lines = answer.out.splitlines()
    announced = json.loads(first)
    assert Path(announced["path"]) == runs(trained)[-1].path
    assert parse_event(first.encode()) is None  # unknown to readers of events, so passed over
    kinds = [type(parse_event(line.encode())) for line in lines]
    assert [kind for kind in kinds if kind is not Previewed] == [
        Started,
        Stepped,
        Stepped,
        Checkpointed,
        Ended,
    ]
    made = runs(trained)[-1].config()
    assert (made.method.name, made.seed, made.iterations) == ("supervised", 5, 2)


def test_people_are_told_where_the_run_is_and_what_to_do_next(call: Call, trained: Path) -> None:
    answer = call("train", trained, "--iterations", 2, *TINY)
    run = runs(trained)[-1]
    assert answer.code == 0
    assert str(run.path) in answer.err
    assert "μ" in answer.err
    assert f"napari-crln predict {trained} --run {run.name}" in answer.out


def test_a_prepared_run_folder_is_trained_as_its_configuration_says(call: Call, trained: Path) -> None:
    made = RunFolder.create(
        trained, config.build({"iterations": 4}, _only_run(trained).config().model_dump())
    )
    assert call("train", "--run-folder", made.path, "--json").code == 0
    assert made.status().reason == "finished"
    assert call("train", trained, "--run-folder", made.path).code == 2


@pytest.mark.parametrize("place", ["runs", "run"])
def test_a_prepared_run_is_named_from_wherever_one_stands(
    place: str, call: Call, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = RunFolder.create(
        trained, config.build({"iterations": 4}, _only_run(trained).config().model_dump())
    )
    monkeypatch.chdir(made.path if place == "run" else made.path.parent)
    answer = call("train", "--run-folder", "." if place == "run" else made.name)
    assert answer.code == 0, answer.err
    assert f"{made.name}: finished" in answer.out
    assert f"napari-crln predict {trained} --run {made.name}" in answer.out


def test_without_a_preset_the_patch_follows_the_data(call: Call, trained: Path) -> None:
    made, notes = configure(Project.open(trained), "automatic", {"iterations": 100}, ["engine.device=cpu"])
    assert made.batches.patch == (16, 16, 16)
    assert made.method.rectification.after == 25
    assert any("batches.patch" in note for note in notes)


def test_what_the_user_sets_wins_over_preset_and_data(trained: Path) -> None:
    project = Project.open(trained)
    own = ["batches.patch=[32,32,32]", "method.rectification.after=7", "network.base_filters=5"]
    made, notes = configure(project, "automatic", {}, [*own, "engine.device=cpu"])
    assert (made.batches.patch, made.method.rectification.after, made.network.base_filters) == (
        (32, 32, 32),
        7,
        5,
    )
    assert not any(field.split("=")[0] in note for field in own for note in notes)
    made, notes = configure(project, "hippocampus", {"iterations": 9}, ["network.base_filters=3"])
    preset = config.build(config.load_preset("hippocampus"))
    assert made.batches.patch == preset.batches.patch
    assert (made.iterations, made.network.base_filters, notes) == (9, 3, [])


def test_resume_extends_a_run_and_keeps_the_former_configuration(call: Call, trained: Path) -> None:
    run = _only_run(trained)
    former = (run.path / "config.toml").read_bytes()
    answer = call("resume", trained, "--iterations", 5, "--json")
    assert answer.code == 0
    started = parse_event(answer.out.splitlines()[1].encode())
    assert isinstance(started, Started)
    assert (started.resumed, started.step, started.iterations) == (True, 3, 5)
    assert run.config().iterations == 5
    assert (run.path / "config-until-00000003.toml").read_bytes() == former
    snapshot, _ = checkpoint.latest(run.checkpoints)
    assert snapshot is not None
    assert snapshot.step == 5


def test_resume_says_so_when_a_setting_of_the_learning_changes(call: Call, trained: Path) -> None:
    answer = call("resume", trained, "--iterations", 4, "--set", "optimiser.learning_rate=0.001")
    assert answer.code == 0
    assert "optimiser.learning_rate changes from 0.05 to 0.001" in answer.err


def test_resume_refuses_what_may_never_change(call: Call, trained: Path) -> None:
    run = _only_run(trained)
    before = (run.path / "config.toml").read_bytes()
    answer = call("resume", trained, "--run", run.name, "--set", "network.base_filters=4")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "network.base_filters = 4 (was 2)" in answer.err
    assert (run.path / "config.toml").read_bytes() == before
    assert not list(run.path.glob("config-until*"))


def test_a_device_that_is_absent_does_not_stay_in_the_run(call: Call, trained: Path) -> None:
    run = next((trained / "runs").iterdir())
    before = (run / "config.toml").read_bytes()
    answer = call("resume", trained, "--iterations", 4, "--device", "cuda:99")
    assert (answer.code, "cuda:99" in answer.err) == (2, True)
    assert (run / "config.toml").read_bytes() == before
    assert not list(run.glob("config-until-*"))


def test_resume_finds_nothing_unfinished(call: Call, trained: Path) -> None:
    answer = call("resume", trained)
    assert answer.code == 5
    assert "--iterations" in answer.err


def test_an_interrupt_ends_with_a_checkpoint_and_says_how_to_go_on(
    call: Call, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = TrainingDisplay.show

    def _interrupt(self: TrainingDisplay, event: object) -> None:
        shown(self, event)  # type: ignore[arg-type]
        if isinstance(event, Stepped):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TrainingDisplay, "show", _interrupt)
    answer = call("train", trained, "--iterations", 50, "--name", "cut", *TINY)
    monkeypatch.undo()
    run = runs(trained)[-1]
    assert answer.code == 130
    assert f"napari-crln resume {trained} --run {run.name}" in answer.out
    snapshot, _ = checkpoint.latest(run.checkpoints)
    assert snapshot is not None
    assert 1 <= snapshot.step < 50
    assert (
        call("resume", trained, "--iterations", snapshot.step + 1, "--json").code == 0
    )  # the newest, by default
    assert run.status().state == "finished"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--method", "magic"], 2),
        (["--preset", "nope"], 2),
        (["--set", "no.such=1"], 2),
        (["--set", "iterations"], 2),
        (["--set", "batches.patch=[16,20,16]"], 2),
        (["--device", "cuda:7"], 2),
        (["--name", "a/b"], 2),
    ],
)
def test_an_invalid_choice_makes_no_run(options: list[str], code: int, call: Call, trained: Path) -> None:
    answer = call("train", trained, *options)
    assert (answer.code, answer.err.count("\n")) == (code, 1)
    assert len(runs(trained)) == 1


def test_a_project_without_labels_makes_no_run(call: Call, tmp_path: Path) -> None:
    call("init", tmp_path / "p.crln", "--class", "a")
    assert call("train", tmp_path / "p.crln", *TINY).code == 4
    assert runs(tmp_path / "p.crln") == []
