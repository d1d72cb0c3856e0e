"""What strangers put into an inbox: refused, and nothing outside is read or written for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from playground import SPECIAL, Playground, unopened

from napari_crln import config, events
from napari_crln.engine.control import Inbox
from napari_crln.engine.loop import Trainer
from napari_crln.run.folder import RunFolder
from napari_crln.run.watch import send
from napari_crln.volume.project import Project


@pytest.mark.parametrize("put", SPECIAL)
def test_what_lies_in_an_inbox_without_being_a_command(ground: Playground, put: Callable[..., None]) -> None:
    (ground.inside / "inbox").mkdir()
    put(ground.inside / "inbox" / "0.json", ground)
    (ground.inside / "inbox" / "1.json").write_bytes(events.dump_command(events.Stop()))
    inbox = Inbox(ground.inside)
    assert inbox.poll() == [events.Stop()]
    (told,) = inbox.warnings()
    assert "0.json" in told
    assert "nobody's business" not in told


def test_what_is_opened_is_seen(ground: Playground) -> None:
    for look in (Path.read_bytes, os.open):
        with pytest.raises(AssertionError), unopened(ground.outside):
            look(ground.outside / "secret.txt", *([os.O_RDONLY] if look is os.open else []))


COMMANDED = {
    "training": {"iterations": 6, "network": {"base_filters": 2}, "batches": {"patch": [16, 16, 16]}},
    "quick": {"method": {"name": "mean-teacher"}, "engine": {"device": "cpu", "threads": 1, "log_every": 1}},
}


@pytest.mark.parametrize("form", ["../../../outside/u1", "{outside}/u1", "u1/../../../../outside/u1", "\0"])
def test_commands_that_name_volumes_by_path_are_refused_by_a_run_that_opens_nothing(
    project: Project, ground: Playground, form: str
) -> None:
    """A volume of the right form lies there; a command names a volume of the run, and is never made a path."""
    shutil.copytree(project.volumes["u1"].path, ground.outside / "u1.zarr")
    name = form.format(outside=ground.outside)
    settings = config.build(*COMMANDED.values())
    run = RunFolder.create(project.path, settings)
    with unopened(ground.outside):
        training = iter(Trainer.of(project, settings, run.path))
        seen = [next(training)]
        send(run.path, events.Focus(volume=name))
        send(run.path, events.LabelsChanged(volume=name, revision=1))
        seen += training
    warned = [event.message for event in seen if isinstance(event, events.Warned)]
    assert len([message for message in warned if repr(name) in message]) == 2, warned
    assert {e.volume for e in seen if isinstance(e, events.Previewed)} <= set(project.volumes)
    assert isinstance(seen[-1], events.Ended)
    assert seen[-1].reason == "finished"
    shutil.rmtree(ground.outside / "u1.zarr")
