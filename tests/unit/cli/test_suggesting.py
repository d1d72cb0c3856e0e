from __future__ import annotations

import json
from pathlib import Path

from command_line import Call

from napari_crln.lock import Lock
from napari_crln.run.folder import runs
from napari_crln.run.suggestions import read_suggestions
from napari_crln.volume.project import Project


def test_json_lists_slices_of_volumes_that_may_be_trained_on(call: Call, trained: Path) -> None:
    answer = call("suggest", trained, "--count", 5, "--json")
    assert answer.code == 0, answer.err
    found = answer.json()
    project = Project.open(trained)
    (run,) = runs(trained)
    assert (found["run"], found["step"], found["volumes"], found["surveyed"]) == (run.name, 3, 4, 4)
    assert 1 <= len(found["items"]) <= 5
    for item in found["items"]:
        # The labelled volumes are labelled whole: nothing of them is left to suggest.
        assert project.volume(item["volume"]).role == "unlabelled"
        assert 0 <= item["index"] < project.volume(item["volume"]).grid.shape[item["axis"]]
        assert item["axis"] == 0
        assert set(item) == {
            "volume",
            "axis",
            "index",
            "score",
            "uncertainty",
            "disagreement",
            "novelty",
            "stands_for",
            "why",
        }
    assert call("suggest", trained, "--count", 5, "--json").json()["items"] == found["items"]
    assert read_suggestions(run.path) is None, "not published unasked"


def test_axes_and_people(call: Call, trained: Path) -> None:
    found = call("suggest", trained, "--axis", 1, "--axis", 2, "--json").json()
    assert {item["axis"] for item in found["items"]} == {1, 2}
    told = call("suggest", trained, "--count", 2)
    assert told.code == 0
    assert "to label next, by" in told.out
    assert "unsure of" in told.out
    assert call("suggest", trained, "--axis", 3).code == 2


def test_a_list_is_published_unless_the_run_is_in_training(call: Call, trained: Path) -> None:
    (run,) = runs(trained)
    with Lock(run.path):
        refused = call("suggest", trained, "--publish", "--json")
        assert refused.code == 2
        assert "being trained" in refused.err
        assert refused.err.count("\n") == 1
    assert read_suggestions(run.path) is None
    answer = call("suggest", trained, "--publish", "--count", 4, "--json")
    published = read_suggestions(run.path)
    assert published is not None
    assert json.loads(published.model_dump_json())["items"] == answer.json()["items"]


def test_without_a_checkpoint_there_is_nothing_to_go_by(call: Call, decathlon: Path, tmp_path: Path) -> None:
    project = tmp_path / "p.crln"
    assert call("import", decathlon, project, "--labelled", 2, "--json").code == 0
    answer = call("suggest", project)
    assert answer.code == 5
    assert "Train one" in answer.err
