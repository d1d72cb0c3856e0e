from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command_line import TINY, Call

from napari_crln.cli import predicting
from napari_crln.run.folder import runs
from napari_crln.volume import store
from napari_crln.volume.project import Project


def test_nifti_files_bear_the_sources_names_and_grids(
    call: Call, trained: Path, decathlon: Path, tmp_path: Path
) -> None:
    answer = call("predict", trained, "--role", "test", "--out", tmp_path / "out")
    assert answer.code == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["case_5.nii.gz", "case_6.nii.gz"]
    project = Project.open(trained)
    for name in ("case_5", "case_6"):
        written, source = (
            nib.load(tmp_path / "out" / f"{name}.nii.gz"),
            nib.load(decathlon / "imagesTs" / f"{name}.nii.gz"),
        )
        assert written.shape == source.shape
        np.testing.assert_array_equal(written.affine, source.affine)
        # The source is LPS and the project RAS: x and y are turned.
        stored = project.volume(name).read_prediction()
        np.testing.assert_array_equal(np.asarray(written.dataobj), stored.T[::-1, ::-1])


def test_the_project_says_what_a_prediction_was_made_by(call: Call, trained: Path) -> None:
    answer = call("predict", trained, "--volume", "case_5", "--without-clues", "--json")
    assert answer.code == 0
    (run,) = runs(trained)
    said = {"run": run.name, "step": 3, "checkpoint": "last", "method": "crln", "clues": False}
    assert answer.json().items() >= said.items()
    project = Project.open(trained)
    assert project.volume("case_5").prediction_attributes == said
    assert not project.volume("case_6").has_prediction


def test_probabilities_sum_to_one_and_agree_with_the_labels(call: Call, trained: Path) -> None:
    assert call("predict", trained, "--volume", "case_5", "--save-probability").code == 0
    volume = Project.open(trained).volume("case_5")
    probability = store.read(volume.path / "maps" / "probability" / "0").astype(np.float32)
    assert probability.shape == (4, *volume.grid.shape)
    np.testing.assert_allclose(probability.sum(0), 1, atol=3e-3)  # float16
    chosen = np.take_along_axis(probability, volume.read_prediction()[None].astype(np.int64), 0)[0]
    assert (chosen >= probability.max(0) - 1e-3).all()


def test_files_that_exist_are_refused_before_anything_is_computed(
    call: Call, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "case_6.nii.gz").write_bytes(b"mine")
    answer = call("predict", trained, "--role", "test", "--out", tmp_path)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert (tmp_path / "case_6.nii.gz").read_bytes() == b"mine"
    assert not Project.open(trained).volume("case_5").has_prediction
    assert call("predict", trained, "--role", "test", "--out", tmp_path, "--overwrite").code == 0
    assert (tmp_path / "case_6.nii.gz").read_bytes() != b"mine"


def test_the_newest_finished_run_is_used(call: Call, trained: Path) -> None:
    call("train", trained, "--iterations", 2, "--name", "second", *TINY, "--json")
    unfinished = runs(trained)[-1].path
    lines = (unfinished / "events.jsonl").read_bytes().splitlines(keepends=True)
    answer = call("predict", trained, "--volume", "case_5", "--json")
    assert answer.json()["run"].endswith("second")
    (unfinished / "events.jsonl").write_bytes(b"".join(lines[:-1]))  # as after a crash
    answer = call("predict", trained, "--volume", "case_5", "--json")
    assert answer.json()["run"].endswith("first")
    answer = call("predict", trained, "--volume", "case_5", "--run", "second", "--json")
    assert answer.json()["run"] == unfinished.name


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--run", "none"], 5, "no run 'none'"),
        (["--volume", "none"], 4, "no volume 'none'"),
        (["--volume", "case_5", "--role", "test"], 2, "--role and --volume"),
        (["--checkpoint", "best"], 5, "no best checkpoint"),
        (["--device", "cuda:7"], 2, "cuda:7"),
    ],
)
def test_what_cannot_be_predicted_is_said_in_one_line(
    options: list[str], code: int, says: str, call: Call, trained: Path
) -> None:
    answer = call("predict", trained, *options)
    assert (answer.code, answer.err.count("\n")) == (code, 1)
    assert says in answer.err


def test_a_project_without_a_finished_run_says_so(call: Call, decathlon: Path, tmp_path: Path) -> None:
    call("import", decathlon, tmp_path / "p.crln", "--labelled", 1, "--json")
    answer = call("predict", tmp_path / "p.crln")
    assert answer.code == 5
    assert "no finished run" in answer.err


def test_a_run_of_other_classes_is_refused(call: Call, trained: Path) -> None:
    manifest = trained / "project.toml"
    manifest.write_text(manifest.read_text("utf-8").replace("lobe", "cap"), "utf-8")
    answer = call("predict", trained, "--volume", "case_5")
    assert answer.code == 5
    assert "trained on classes background, body, lobe, vessel" in answer.err


def test_json_is_one_document(call: Call, trained: Path, tmp_path: Path) -> None:
    answer = call("predict", trained, "--role", "test", "--out", tmp_path / "o", "--json")
    assert [v["name"] for v in json.loads(answer.out)["volumes"]] == ["case_5", "case_6"]
    assert answer.err == ""


def test_sigterm_in_the_middle_of_a_volume_keeps_those_that_are_done_and_leaves_nothing(
    call: Call, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupting(tell: object, number: int, count: int, name: str) -> object:
        def progress(done: int, total: int) -> None:
            if number == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        return progress

    monkeypatch.setattr(predicting, "_nth", interrupting)
    before = signal.getsignal(signal.SIGTERM)
    files = {path for path in trained.rglob("*") if ".tmp-" in path.name}
    assert call("predict", trained, "--role", "test").code == 130
    first, second = Project.open(trained).with_role("test")
    assert (first.has_prediction, second.has_prediction) == (True, False)
    assert {path for path in trained.rglob("*") if ".tmp-" in path.name} == files
    assert signal.getsignal(signal.SIGTERM) is before
