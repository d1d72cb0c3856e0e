from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Call

from napari_crln.events import INBOX
from napari_crln.lock import Lock
from napari_crln.run.folder import runs
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume


@pytest.fixture
def volume(trained: Path) -> Volume:
    """An unlabelled volume with a prediction."""
    found = Project.open(trained).with_role("unlabelled")[0]
    found.write_prediction(np.random.default_rng(0).integers(0, 4, found.grid.shape, np.uint8))
    return found


def test_an_accepted_prediction_makes_an_unlabelled_volume_labelled(
    call: Call, trained: Path, volume: Volume
) -> None:
    answer = call("accept", trained, volume.name, "--json")
    assert answer.code == 0
    said = {
        "revision": 1,
        "coverage": "dense",
        "kept": None,
        "role": "labelled",
        "was": "unlabelled",
        "told": [],
    }
    assert answer.json().items() >= said.items()
    np.testing.assert_array_equal(volume.read_targets(), volume.read_prediction())
    assert Project.open(trained).volume(volume.name).role == "labelled"


def test_a_slice_is_accepted_and_taken_back(call: Call, trained: Path, volume: Volume) -> None:
    assert call("accept", trained, volume.name, "--slice", 1, 3, "--json").json()["coverage"] == "sparse"
    targets = volume.read_targets()
    np.testing.assert_array_equal(targets[:, 3], volume.read_prediction()[:, 3])
    assert (np.delete(targets, 3, axis=1) == -1).all()
    answer = call("accept", trained, volume.name, "--restore", 0)
    assert "was labelled and is unlabelled now" in answer.out
    assert (volume.read_targets() == -1).all()
    assert call("accept", trained, volume.name, "--restore", 1).code == 0  # what was taken back is kept
    np.testing.assert_array_equal(volume.read_targets(), targets)


def test_a_run_that_trains_is_told(call: Call, trained: Path, volume: Volume) -> None:
    (run,) = runs(trained)
    with Lock(run.path):
        assert call("accept", trained, volume.name, "--json").json()["told"] == [run.name]
    (command,) = (run.path / INBOX).glob("*.json")
    assert json.loads(command.read_text()) == {
        "command": "labels_changed", "volume": volume.name, "revision": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--restore", "7"), 4, "no revision 7"),
        (("--restore", "0"), 4, "nothing to take back"),
        (("--slice", "0", "999"), 2, "slice 999"),
        (("--slice", "0", "1", "--restore", "1"), 2, "--slice and --restore"),
    ],
)
def test_what_cannot_be_accepted_is_said_in_one_line(
    options: tuple[str, ...], code: int, says: str, call: Call, trained: Path, volume: Volume
) -> None:
    answer = call("accept", trained, volume.name, *options)
    assert (answer.code, answer.err.count("\n")) == (code, 1)
    assert says in answer.err
    assert not volume.has_annotation


def test_roles_change_for_all_volumes_or_none(call: Call, trained: Path) -> None:
    first, second = (each.name for each in Project.open(trained).with_role("labelled"))
    assert call("role", trained, first, "none", "--to", "test").code == 4
    assert Project.open(trained).volume(first).role == "labelled"
    assert call("role", trained, first, second, "--to", "test", "--json").json()["volumes"] == [first, second]
    assert Project.open(trained).volume(first).role == "test"


def test_a_volume_without_labels_is_not_made_labelled(call: Call, trained: Path, volume: Volume) -> None:
    answer = call("role", trained, volume.name, "--to", "labelled")
    assert (answer.code, answer.err.count("\n")) == (4, 1)
    assert Project.open(trained).volume(volume.name).role == "unlabelled"
