from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command_line import TINY, Call

from napari_crln.cli import evaluating
from napari_crln.engine import evaluate
from napari_crln.engine.gather import Scored
from napari_crln.types import IGNORE
from napari_crln.volume.project import Project


@pytest.fixture
def shifted(decathlon: Path, tmp_path: Path) -> Path:
    """Predictions of three training cases: the truth, moved one voxel in two of them."""
    folder = tmp_path / "predictions"
    folder.mkdir()
    shutil.copy(decathlon / "labelsTr" / "case_0.nii.gz", folder)
    for case in ("case_1", "case_2"):
        label = nib.load(decathlon / "labelsTr" / f"{case}.nii.gz")
        moved = np.roll(np.asarray(label.dataobj), 1, axis=0)
        nib.save(nib.Nifti1Image(moved, label.affine), folder / f"{case}.nii.gz")
    return folder


def test_files_are_matched_by_name_and_scored(call: Call, shifted: Path, decathlon: Path) -> None:
    answer = call("evaluate", "--predictions", shifted, "--labels", decathlon / "labelsTr", "--json")
    assert answer.code == 0
    cases = {case["name"]: case["classes"] for case in answer.json()["evaluation"]["cases"]}
    assert list(cases) == ["case_0", "case_1", "case_2"]
    assert list(cases["case_0"]) == ["body", "lobe", "vessel"]  # of the dataset.json beside the labels
    assert {scores["dice"] for scores in cases["case_0"].values()} == {1.0}
    assert all(0.3 < scores["dice"] < 1 and scores["hd95"] >= 1 for scores in cases["case_1"].values())


def test_a_table_for_people_and_files(call: Call, shifted: Path, decathlon: Path, tmp_path: Path) -> None:
    arguments = (
        "evaluate",
        "--predictions",
        shifted,
        "--labels",
        decathlon / "labelsTr",
        "--out",
        tmp_path / "e",
    )
    answer = call(*arguments)
    assert answer.code == 0
    assert "2 labels have no prediction" in answer.err
    assert "Empty predictions: 0 of 9" in answer.out
    found = evaluate.loads((tmp_path / "e" / "scores.json").read_text("utf-8"), "scores.json")
    assert found.overall.cases == 3
    rows = list(csv.reader((tmp_path / "e" / "scores.csv").read_text("utf-8").splitlines()))
    assert len(rows) == 1 + 9
    assert (tmp_path / "e" / "cases.png").read_bytes().startswith(b"\x89PNG")
    assert call(*arguments).code == 2  # nothing is overwritten unasked
    assert call(*arguments, "--overwrite").code == 0


def test_an_empty_prediction_is_counted_and_has_no_distance(
    call: Call, shifted: Path, decathlon: Path
) -> None:
    label = nib.load(decathlon / "labelsTr" / "case_1.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(label.shape, np.uint8), label.affine), shifted / "case_1.nii.gz")
    arguments = ("evaluate", "--predictions", shifted, "--labels", decathlon / "labelsTr")
    assert "Empty predictions: 3 of 9" in call(*arguments).out
    evaluation = call(*arguments, "--json").json()["evaluation"]
    assert evaluation["overall"]["empty_predictions"] == 3
    assert evaluation["cases"][1]["classes"]["body"]["hd95"] is None
    assert evaluation["cases"][1]["classes"]["body"]["dice"] == 0


def test_it_is_said_why_a_sparse_truth_has_no_distance(capsys: pytest.CaptureFixture[str]) -> None:
    prediction = np.zeros((4, 4, 4), np.uint8)
    prediction[1:3, 1:3, 1:3] = 1
    truth = prediction.astype(np.int16)
    truth[2:] = IGNORE
    case = evaluate.Case("a", prediction, truth, (1.0, 1.0, 1.0))
    evaluating._print(Scored(evaluate.evaluate([case], ["background", "one"]), {}, "a run", {}), True)
    assert "Annotated in part: 1 of 1 cases." in capsys.readouterr().out


def test_another_grid_is_refused(call: Call, shifted: Path, decathlon: Path) -> None:
    label = nib.load(shifted / "case_1.nii.gz")
    affine = label.affine.copy()
    affine[0, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj), affine), shifted / "case_1.nii.gz")
    answer = call("evaluate", "--predictions", shifted, "--labels", decathlon / "labelsTr")
    assert (answer.code, answer.err.count("\n")) == (3, 1)
    assert "case_1.nii.gz" in answer.err


def test_a_role_without_labels_lists_volumes_and_says_so(call: Call, trained: Path) -> None:
    call("predict", trained, "--role", "test", "--json")
    answer = call("evaluate", trained, "--role", "test")
    assert answer.code == 0
    assert "no reference labels for these 2 cases" in answer.out
    assert "--labels DIR" in answer.out
    document = call("evaluate", trained, "--role", "test", "--json").json()
    volume = Project.open(trained).volume("case_5")
    body = document["evaluation"]["cases"][0]["classes"]["body"]
    expected = (volume.read_prediction() == 1).sum() * np.prod(volume.grid.spacing) / 1000
    assert body["prediction_ml"] == pytest.approx(expected)
    assert body["dice"] is None


def test_labels_from_a_folder_score_a_projects_predictions(
    call: Call, trained: Path, decathlon: Path
) -> None:
    call("predict", trained, "--role", "unlabelled", "--json")
    own = call("evaluate", trained, "--role", "unlabelled", "--json").json()["evaluation"]
    given = call(
        "evaluate", trained, "--role", "unlabelled", "--labels", decathlon / "labelsTr", "--json"
    ).json()
    assert own["overall"]["cases"] == 0
    assert given["evaluation"]["overall"]["cases"] == 2


def test_annotated_volumes_are_scored_against_their_annotation(
    call: Call, trained: Path, decathlon: Path
) -> None:
    volume = Project.open(trained).volume("case_4")
    truth = np.asarray(volume.read_targets(), np.uint8)
    volume.write_prediction(truth, {"run": "by hand", "step": 1})
    document = call("evaluate", trained, "--role", "validation", "--json").json()
    assert document["predictions"] == {"run": "by hand", "step": 1}
    assert document["evaluation"]["overall"]["statistics"]["dice"]["mean"] == 1.0


def test_predictions_of_several_runs_are_no_result(call: Call, trained: Path) -> None:
    call("predict", trained, "--volume", "case_5", "--json")
    assert "case_6" in call("evaluate", trained, "--role", "test").err  # one still lacks a prediction
    call("train", trained, "--iterations", 2, "--name", "second", *TINY, "--json")
    call("predict", trained, "--volume", "case_6", "--json")
    answer = call("evaluate", trained, "--role", "test")
    assert answer.code == 4
    assert "several runs" in answer.err
    call("predict", trained, "--role", "test", "--run", "second", "--json")
    assert call("evaluate", trained, "--role", "test", "--run", "second").code == 0
    assert call("evaluate", trained, "--role", "test", "--run", "first").code == 4


@pytest.mark.parametrize("arguments", [[], ["--predictions", "x"], ["--predictions", "x", "--labels", "y"]])
def test_nothing_to_score_is_a_usage_error(arguments: list[str], call: Call) -> None:
    answer = call("evaluate", *arguments)
    assert (answer.code, answer.err.count("\n")) == (2, 1)


def test_ids_number_the_classes_where_nothing_names_them(
    call: Call, shifted: Path, decathlon: Path, tmp_path: Path
) -> None:
    shutil.copytree(decathlon / "labelsTr", tmp_path / "elsewhere" / "labels")
    answer = call(
        "evaluate", "--predictions", shifted, "--labels", tmp_path / "elsewhere" / "labels", "--json"
    )
    assert list(json.loads(answer.out)["evaluation"]["per_class"]) == ["class 1", "class 2", "class 3"]


@pytest.fixture
def partly(decathlon: Path, tmp_path: Path) -> Path:
    """The training labels as nnU-Net has them where nobody annotated the first slices: id 9, "ignore"."""
    folder = tmp_path / "nnunet"
    (folder / "labelsTr").mkdir(parents=True)
    for path in (decathlon / "labelsTr").iterdir():
        label = nib.load(path)
        ids = np.asarray(label.dataobj).copy()
        ids[..., :3] = 9
        nib.save(nib.Nifti1Image(ids, label.affine), folder / "labelsTr" / path.name)
    described = json.loads((decathlon / "dataset.json").read_text("utf-8"))
    named = {name: int(number) for number, name in described["labels"].items()}
    (folder / "dataset.json").write_text(json.dumps({"labels": named | {"ignore": 9}}), "utf-8")
    return folder


def test_predictions_bear_nnunets_channel_and_labels_do_not(
    call: Call, shifted: Path, decathlon: Path
) -> None:
    for path in list(shifted.iterdir()):
        path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
    arguments = ("evaluate", "--predictions", shifted, "--labels", decathlon / "labelsTr", "--json")
    answer = call(*arguments)
    assert answer.code == 0, answer.err
    assert [case["name"] for case in answer.json()["evaluation"]["cases"]] == ["case_0", "case_1", "case_2"]
    shutil.copy(
        shifted / "case_0_0000.nii.gz", shifted / "case_1.nii.gz"
    )  # now there is one of the very name
    scored = call(*arguments).json()["evaluation"]["cases"]
    assert len(scored) == 3
    assert scored[1]["classes"]["body"]["dice"] < 0.9


def test_a_volume_that_was_imported_with_its_channel_finds_its_label(
    call: Call, decathlon: Path, tmp_path: Path
) -> None:
    shutil.copy(decathlon / "imagesTr" / "case_0.nii.gz", tmp_path / "case_0_0000.nii.gz")
    path = tmp_path / "p.crln"
    call("init", path, "--class", "body", "--class", "lobe", "--class", "vessel")
    call("import", tmp_path / "case_0_0000.nii.gz", path)
    volume = Project.open(path).volume("case_0_0000")
    volume.write_prediction(np.zeros(volume.grid.shape, np.uint8), {"run": "by hand", "step": 1})
    answer = call("evaluate", path, "--labels", decathlon / "labelsTr", "--json")
    assert answer.json()["evaluation"]["overall"]["cases"] == 1


def test_voxels_of_the_data_sets_ignored_id_are_not_scored(
    call: Call, shifted: Path, trained: Path, partly: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = call("evaluate", "--predictions", shifted, "--labels", partly / "labelsTr", "--json")
    assert answer.code == 0, answer.err
    assert {case["sparse_truth"] for case in answer.json()["evaluation"]["cases"]} == {True}
    for volume in Project.open(trained).with_role("unlabelled"):
        volume.write_prediction(np.zeros(volume.grid.shape, np.uint8), {"run": "by hand", "step": 1})
    monkeypatch.chdir(partly / "labelsTr")  # the dataset.json is found from there too
    for labels in (partly / "labelsTr", "."):
        answer = call("evaluate", trained, "--role", "unlabelled", "--labels", labels, "--json")
        assert answer.code == 0, answer.err
        assert answer.json()["evaluation"]["overall"]["sparse_truths"] == 2


def test_an_ignored_id_that_is_none_is_refused(call: Call, trained: Path, partly: Path) -> None:
    (partly / "dataset.json").write_text('{"labels": {"background": 0, "ignore": "many"}}', "utf-8")
    call("predict", trained, "--role", "unlabelled", "--json")
    answer = call("evaluate", trained, "--role", "unlabelled", "--labels", partly / "labelsTr")
    assert (answer.code, answer.err.count("\n")) == (3, 1)
    assert "'many'" in answer.err


def test_an_id_that_only_a_prediction_holds_is_a_class_too(
    call: Call, shifted: Path, decathlon: Path, tmp_path: Path
) -> None:
    shutil.copytree(decathlon / "labelsTr", tmp_path / "elsewhere" / "labels")
    label = nib.load(shifted / "case_1.nii.gz")
    ids = np.asarray(label.dataobj).copy()
    ids[:2, :2, :2] = 7
    nib.save(nib.Nifti1Image(ids, label.affine), shifted / "case_1.nii.gz")
    answer = call(
        "evaluate", "--predictions", shifted, "--labels", tmp_path / "elsewhere" / "labels", "--json"
    )
    assert answer.code == 0, answer.err
    per_class = answer.json()["evaluation"]["per_class"]
    assert list(per_class) == ["class 1", "class 2", "class 3", "class 7"]
    assert per_class["class 7"]["empty_truths"] == 3
