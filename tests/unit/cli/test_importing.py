from __future__ import annotations

import shutil
from inspect import signature
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command_line import Call

from napari_crln.gui.from_layers import create_project
from napari_crln.volume.decathlon import import_decathlon
from napari_crln.volume.intensity import DEFAULT_KIND
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.nifti import read_label
from napari_crln.volume.project import Project


def test_a_decathlon_folder_becomes_a_project(call: Call, decathlon: Path, tmp_path: Path) -> None:
    answer = call("import", decathlon, tmp_path / "p.crln", "--labelled", 2, "--validation", 1, "--json")
    assert answer.code == 0
    assert answer.json()["volumes"] == {"labelled": 2, "unlabelled": 2, "validation": 1, "test": 2}
    project = Project.open(tmp_path / "p.crln")
    assert [v.name for v in project.with_role("labelled")] == ["case_0", "case_1"]
    assert [v.name for v in project.with_role("validation")] == ["case_4"]
    assert not any(v.has_annotation for v in project.with_role("unlabelled"))


def test_people_are_told_counts_and_the_next_command(call: Call, decathlon: Path, tmp_path: Path) -> None:
    answer = call("import", decathlon, tmp_path / "p.crln", "--labelled", 2)
    assert answer.code == 0
    assert "unlabelled" in answer.out
    assert f"napari-crln train {tmp_path / 'p.crln'}" in answer.out


def test_an_existing_project_is_refused_and_stays(call: Call, decathlon: Path, trained: Path) -> None:
    before = sorted(trained.rglob("*"))
    answer = call("import", decathlon, trained, "--labelled", 1)
    assert (answer.code, answer.err.count("\n")) == (4, 1)
    assert sorted(trained.rglob("*")) == before


def test_a_folder_needs_the_number_of_labelled_cases(call: Call, decathlon: Path, tmp_path: Path) -> None:
    answer = call("import", decathlon, tmp_path / "p.crln")
    assert answer.code == 2
    assert "--labelled" in answer.err
    assert not (tmp_path / "p.crln").exists()


@pytest.mark.parametrize(
    "option",
    ["--role=test", "--name=x", "--ignore=3", "--label=l.nii", "--annotation-values"],
)
def test_options_of_files_do_not_apply_to_folders(
    option: str, call: Call, decathlon: Path, tmp_path: Path
) -> None:
    answer = call("import", decathlon, tmp_path / "p.crln", "--labelled", 1, option)
    assert answer.code == 2
    assert option.partition("=")[0] in answer.err


@pytest.mark.parametrize(
    "option",
    [
        "--labelled=1",
        "--validation=0",
        "--normalisation=none",
        "--scheduler=threads",
        "--annotation-values",
        "--ignore=3",
    ],
)
def test_options_of_folders_and_of_labels_do_not_apply_to_a_plain_file(
    option: str, call: Call, decathlon: Path, tmp_path: Path
) -> None:
    path = tmp_path / "p.crln"
    call("init", path, "--class", "body")
    answer = call("import", decathlon / "imagesTr" / "case_0.nii.gz", path, option)
    assert answer.code == 2
    assert option.partition("=")[0] in answer.err
    assert not Project.open(path).volumes


def test_init_then_files(call: Call, decathlon: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.crln"
    classes = ("--class", "body", "--class", "lobe=2", "--class", "vessel")
    assert call("init", path, *classes).code == 0
    image, label = (decathlon / part / "case_0.nii.gz" for part in ("imagesTr", "labelsTr"))
    assert call("import", image, path, "--label", label).code == 0
    assert call("import", image, path, "--name", "plain").code == 0
    assert call("import", image, path, "--name", "held", "--label", label, "--role", "validation").code == 0
    project = Project.open(path)
    assert {v.name: v.role for v in project.volumes.values()} == {
        "case_0": "labelled",
        "plain": "unlabelled",
        "held": "validation",
    }
    np.testing.assert_array_equal(
        project.volume("case_0").read_targets(), project.volume("held").read_targets()
    )


def test_a_label_with_an_ignored_id_is_sparse(call: Call, decathlon: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.crln"
    call("init", path, "--class", "body", "--class", "lobe")
    image, label = (decathlon / part / "case_0.nii.gz" for part in ("imagesTr", "labelsTr"))
    assert call("import", image, path, "--label", label, "--ignore", 3).code == 0
    volume = Project.open(path).volume("case_0")
    assert volume.coverage == "sparse"
    assert (volume.read_targets() == -1).any()


def test_scribbles_of_which_the_background_id_means_not_annotated(
    call: Call, decathlon: Path, tmp_path: Path
) -> None:
    path = tmp_path / "p.crln"
    call("init", path, "--class", "body", "--class", "lobe", "--class", "vessel")
    image, label = (decathlon / part / "case_0.nii.gz" for part in ("imagesTr", "labelsTr"))
    assert call("import", image, path, "--label", label, "--ignore", 0).code == 0
    found = Project.open(path).volume("case_0").read_targets()
    ids = read_label(label).voxels
    np.testing.assert_array_equal(found, np.where(ids == 0, -1, ids.astype(int)))


def test_an_annotation_layer_that_was_saved_comes_back(call: Call, decathlon: Path, tmp_path: Path) -> None:
    """Its values are one above the class indices; the same file without the option has the ids of `init`."""
    path = tmp_path / "p.crln"
    call("init", path, "--class", "body", "--class", "lobe", "--class", "vessel")
    image, label = (decathlon / part / "case_0.nii.gz" for part in ("imagesTr", "labelsTr"))
    assert call("import", image, path, "--label", label, "--annotation-values").code == 0
    volume = Project.open(path).volume("case_0")
    assert volume.coverage == "sparse"
    np.testing.assert_array_equal(volume.read_targets(), read_label(label).voxels.astype(int) - 1)
    both = call("import", image, path, "--label", label, "--annotation-values", "--ignore", 0, "--name", "b")
    assert (both.code, "--ignore" in both.err) == (2, True)


def test_a_class_cannot_mean_not_annotated(call: Call, decathlon: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.crln"
    call("init", path, "--class", "body", "--class", "lobe", "--class", "vessel")
    image, label = (decathlon / part / "case_0.nii.gz" for part in ("imagesTr", "labelsTr"))
    answer = call("import", image, path, "--label", label, "--ignore", 2)
    assert answer.code == 3
    assert "lobe" in answer.err
    assert not Project.open(path).volumes


def test_a_bad_file_changes_nothing(call: Call, decathlon: Path, trained: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.nii.gz"
    shutil.copy(decathlon / "imagesTr" / "case_0.nii.gz", broken)
    broken.write_bytes(broken.read_bytes()[:-9])
    before = (trained / "project.toml").read_bytes()
    answer = call("import", broken, trained)
    assert (answer.code, answer.err.count("\n")) == (3, 1)
    assert "broken.nii.gz" in answer.err
    assert (trained / "project.toml").read_bytes() == before
    assert not list((trained / "volumes").glob("broken*"))


def test_an_unknown_id_in_a_label_is_named(
    call: Call, decathlon: Path, trained: Path, tmp_path: Path
) -> None:
    image = nib.load(decathlon / "imagesTr" / "case_0.nii.gz")
    nib.save(nib.Nifti1Image(np.full(image.shape, 9, np.uint8), image.affine), tmp_path / "l.nii.gz")
    answer = call(
        "import",
        decathlon / "imagesTr" / "case_0.nii.gz",
        trained,
        "--name",
        "n",
        "--label",
        tmp_path / "l.nii.gz",
    )
    assert answer.code == 3
    assert "unknown label id 9" in answer.err


@pytest.mark.parametrize("classes", [("a=x",), ("a", "a"), ("=3",), ("a=1", "b=1")])
def test_init_refuses_a_malformed_class_table(classes: tuple[str, ...], call: Call, tmp_path: Path) -> None:
    answer = call("init", tmp_path / "p.crln", *(f"--class={c}" for c in classes))
    assert answer.code in (2, 3)
    assert not (tmp_path / "p.crln").exists()


@pytest.mark.parametrize("value", ["--5", "-", "5-", "1.5", "99999999999999999999", str(1 << 62), "9" * 5000])
def test_init_refuses_an_id_that_no_label_file_holds(value: str, call: Call, tmp_path: Path) -> None:
    answer = call("init", tmp_path / "p.crln", f"--class=x={value}")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "2^62" in answer.err
    assert not (tmp_path / "p.crln").exists()


def test_init_takes_any_id_that_a_project_does(call: Call, tmp_path: Path) -> None:
    lowest, highest = 1 - (1 << 62), (1 << 62) - 1
    assert call("init", tmp_path / "p.crln", f"--class=x={lowest}", f"--class=y={highest}").code == 0
    assert [c.source_id for c in Project.open(tmp_path / "p.crln").classes] == [0, lowest, highest]
    answer = call("init", tmp_path / "q.crln", "--class=x", "--background", highest + 1)
    assert (answer.code, answer.err.count("\n")) == (2, 1)


@pytest.mark.parametrize("name", ["background", "Background", "background=0"])
def test_init_takes_no_background_among_the_classes(name: str, call: Call, tmp_path: Path) -> None:
    """It would be a foreground of id 1, and the classes after it one too high."""
    answer = call("init", tmp_path / "p.crln", "--class", name, "--class", "liver")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "--background ID" in answer.err
    assert not (tmp_path / "p.crln").exists()


def test_one_normalisation_is_the_default_of_shell_panel_and_library(
    call: Call, decathlon: Path, tmp_path: Path
) -> None:
    classes = ClassTable.from_ids({"background": 0, "a": 1})
    assert Project.create(tmp_path / "library.crln", classes).normalisation == DEFAULT_KIND
    assert import_decathlon(decathlon, tmp_path / "folder.crln", 1).normalisation == DEFAULT_KIND
    assert signature(create_project).parameters["normalisation"].default == DEFAULT_KIND
    assert call("init", tmp_path / "init.crln", "--class", "a", "--json").code == 0
    assert call("import", decathlon, tmp_path / "import.crln", "--labelled", 1, "--json").code == 0
    for name in ("init", "import"):
        assert Project.open(tmp_path / f"{name}.crln").normalisation == DEFAULT_KIND
        assert f"default: {DEFAULT_KIND}" in " ".join(call(name, "--help").out.replace("│", " ").split())


@pytest.mark.parametrize("kind", ["zscore", "percentile", "none"])
def test_another_normalisation_may_be_chosen(kind: str, call: Call, decathlon: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.crln"
    answer = call("import", decathlon, path, "--labelled", 1, "--normalisation", kind, "--json")
    assert answer.code == 0, answer.err
    assert {v.normalisation.kind for v in Project.open(path).volumes.values()} == {kind}
