from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from napari_crln import config
from napari_crln.config import RunConfig
from napari_crln.errors import OutOfSpace, ProjectError, RunError, UsageError
from napari_crln.events import Ended, dump_line
from napari_crln.run.folder import RunFolder, newest_finished, runs


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "demo.crln"
    path.mkdir()
    return path


def end(run: RunFolder, reason: str) -> None:
    event = Ended.model_validate({"step": 1, "reason": reason})
    run.events.write_bytes(dump_line(event))


def test_a_run_holds_its_configuration_and_what_it_was_made_with(project: Path) -> None:
    wanted = config.build({"iterations": 7, "method": {"name": "mean-teacher"}})
    run = RunFolder.create(project, wanted)
    assert run.path.parent == project / "runs"
    assert run.name.endswith("-mean-teacher")
    assert run.config() == wanted
    assert RunFolder.open(run.path) == run
    record = json.loads((run.path / "environment.json").read_text())
    assert record["ordinal"] == 1
    assert record["command"] == sys.argv
    assert record["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert record["versions"]["torch"][0].isdigit()
    assert [path.name for path in run.path.parent.iterdir()] == [run.name], "leftovers"


def test_nothing_is_ever_overwritten(project: Path) -> None:
    first = RunFolder.create(project, RunConfig(), "a")
    (first.path / "note").write_text("mine")
    second = RunFolder.create(project, RunConfig(), "a")
    third = RunFolder.create(project, RunConfig(), "a")
    assert [second.name, third.name] == [f"{first.name}-2", f"{first.name}-3"]
    assert (first.path / "note").read_text() == "mine"


def test_a_number_that_was_added_is_no_part_of_the_name_that_was_given(project: Path) -> None:
    named = [RunFolder.create(project, RunConfig(), name) for name in ("t", "t", "t-2", "t-7", "9")]
    assert [run.name[11:] for run in named] == ["t", "t-2", "t-2-2", "t-7", "9"]
    assert [run.given_name for run in named] == ["t", "t", "t-2", "t-7", "9"]
    assert RunFolder.open(named[1].path.rename(project / "runs" / "2026-01-01-best-2")).given_name == "best-2"


def test_of_runs_of_older_versions_it_is_told_by_the_run_that_has_the_name(project: Path) -> None:
    named = [RunFolder.create(project, RunConfig(), name) for name in ("t", "t", "s-7")]
    for run in named:
        record = json.loads((run.path / "environment.json").read_text("utf-8"))
        del record["name"]
        (run.path / "environment.json").write_text(json.dumps(record), "utf-8")
    assert [run.given_name for run in named] == ["t", "t", "s-7"]


def test_order_is_that_of_creation_whatever_clocks_and_names_say(project: Path) -> None:
    made = [RunFolder.create(project, RunConfig(), name) for name in ("z", "m", "a")]
    os.utime(made[0].path, (2**32, 2**32))
    renamed = made[1].path.rename(project / "runs" / "1999-01-01-older")
    found = runs(project)
    assert [run.path for run in found] == [made[0].path, renamed, made[2].path]
    assert [run.ordinal for run in found] == [1, 2, 3]


def test_simultaneous_creators_get_ordinals_and_folders_of_their_own(project: Path) -> None:
    made: list[RunFolder] = []
    threads = [
        threading.Thread(target=lambda: made.append(RunFolder.create(project, RunConfig(), "a")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run.ordinal for run in made) == list(range(1, 9))
    assert len({run.path for run in made}) == 8


def test_newest_finished_passes_over_what_was_stopped_or_failed(project: Path) -> None:
    assert newest_finished(project) is None
    made = [RunFolder.create(project, RunConfig()) for _ in range(5)]
    for run, reason in zip(made, ["finished", "finished", "stopped", "failed"], strict=False):
        end(run, reason)
    assert newest_finished(project) == made[1]


def test_strangers_in_the_runs_folder_are_left_out(project: Path) -> None:
    run = RunFolder.create(project, RunConfig())
    (project / "runs" / "notes").mkdir()
    (project / "runs" / "file").write_text("")
    (project / "runs" / ".tmp-half").mkdir()
    assert runs(project) == [run]
    with pytest.raises(RunError, match="not a run folder"):
        RunFolder.open(project / "runs" / "notes")


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"schema_version": 1, "ordinal": "x"}'])
def test_a_damaged_record_is_named(project: Path, content: str) -> None:
    run = RunFolder.create(project, RunConfig())
    (run.path / "environment.json").write_text(content)
    with pytest.raises(RunError, match=r"environment\.json"):
        RunFolder.open(run.path)


def test_a_run_of_a_newer_version_is_refused(project: Path) -> None:
    run = RunFolder.create(project, RunConfig())
    (run.path / "environment.json").write_text('{"schema_version": 9, "ordinal": 1}')
    with pytest.raises(RunError, match="schema 9"):
        RunFolder.open(run.path)


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "a b", "é", "x" * 101])
def test_names_that_are_no_folder_names_are_refused(project: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        RunFolder.create(project, RunConfig(), name)
    assert not (project / "runs").exists()


def test_no_project_no_run(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="nowhere"):
        RunFolder.create(tmp_path / "nowhere", RunConfig())
    assert runs(tmp_path / "nowhere") == []


def test_a_failure_on_the_way_leaves_no_half_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OutOfSpace):
        RunFolder.create(project, RunConfig())
    assert list((project / "runs").iterdir()) == []


def test_neither_torch_nor_the_engine_is_imported() -> None:
    code = (
        "import sys, napari_crln.run.folder, napari_crln.run.watch, napari_crln.run.launch\n"
        "print([m for m in sys.modules if m in ('torch', 'napari', 'qtpy', 'napari_crln.engine')])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    reply = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    assert reply.stdout.strip() == "[]"
