from __future__ import annotations

import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command_line import Call

from napari_crln.run.folder import runs
from napari_crln.volume import memory, store
from napari_crln.volume.project import Project
from napari_crln.volume.pyramid import plan


def _flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def test_a_project_lists_volumes_and_runs(call: Call, trained: Path) -> None:
    call("predict", trained, "--volume", "case_5", "--json")
    document = call("inspect", trained, "--json").json()
    volumes = {v["name"]: v for v in document["volumes"]}
    assert volumes["case_0"]["role"] == "labelled"
    assert volumes["case_0"]["annotation"] == "dense"
    assert volumes["case_0"]["shape"] == [16, 24, 20]
    assert volumes["case_0"]["spacing"] == [1.5, 1, 1]
    assert volumes["case_5"]["prediction"]["step"] == 3
    assert volumes["case_6"]["prediction"] is None
    assert [(r["state"], r["step"], r["iterations"]) for r in document["runs"]] == [("finished", 3, 3)]
    printed = call("inspect", trained).out
    assert all(name in printed for name in ("case_0", "16 × 24 × 20", "finished", "3/3"))


def test_verify_names_the_damaged_array(call: Call, trained: Path) -> None:
    assert call("inspect", trained, "--verify").code == 0
    chunk = next(
        p
        for p in (trained / "volumes" / "case_3.zarr" / "0").rglob("*")
        if p.is_file() and p.name != "zarr.json"
    )
    _flip_last_byte(chunk)
    assert call("inspect", trained).code == 0  # nothing was read
    answer = call("inspect", trained, "--verify")
    assert answer.code == 4
    assert answer.err.count("\n") == 1
    assert "case_3.zarr" in answer.err


def test_verify_finds_a_missing_array(call: Call, trained: Path) -> None:
    (trained / "volumes" / "case_0.zarr" / "labels" / "annotation" / "0" / "zarr.json").unlink()
    answer = call("inspect", trained, "--verify")
    assert answer.code == 4
    assert "case_0.zarr" in answer.err


def test_verify_takes_volumes_that_do_not_fit_in_memory(
    call: Call, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images and labels of 7680 bytes and more, of which parts of 512 are read."""
    monkeypatch.setattr(memory, "available", lambda **_: 1500)
    monkeypatch.setattr(store, "SHARD", 8)
    assert call("inspect", trained, "--verify").code == 0
    project = trained / "project.toml"
    project.write_text(re.sub(r"\[\[classes\]\][^\[]*vessel[^\[]*", "", project.read_text("utf-8")), "utf-8")
    answer = call("inspect", trained, "--verify")
    assert answer.code == 4
    assert "annotation value 4" in answer.err
    monkeypatch.setattr(memory, "available", lambda **_: 500)
    answer = call("inspect", trained, "--verify")
    assert (answer.code, answer.err.count("\n")) == (7, 1)
    assert "damaged" not in answer.out


def test_verify_finds_labels_of_another_shape(call: Call, trained: Path) -> None:
    volume = Project.open(trained).volume("case_0")
    smaller = volume.read_annotation()[:9]
    shutil.rmtree(volume.path / "labels" / "annotation" / "0")
    store.write_multiscale(
        trained / "aside", smaller, plan(smaller.shape, (1, 1, 1))[:1], "label", {}, sharded=False
    )
    (trained / "aside" / "0").rename(volume.path / "labels" / "annotation" / "0")
    answer = call("inspect", trained, "--verify")
    assert answer.code == 4
    assert "annotation of shape (9, 24, 20)" in answer.err


@pytest.mark.parametrize("broken", ["zarr.json", "0/zarr.json", "labels/annotation/zarr.json"])
@pytest.mark.parametrize("verify", [(), ("--verify",)])
def test_a_damaged_volume_is_listed_with_the_others(
    broken: str, verify: tuple[str, ...], call: Call, trained: Path
) -> None:
    (trained / "volumes" / "case_1.zarr" / broken).write_text("{")
    answer = call("inspect", trained, "--json", *verify)
    assert answer.code == 4
    assert answer.err.count("\n") == 1
    assert "case_1.zarr" in answer.err
    document = answer.json()
    volumes = {v["name"]: v for v in document["volumes"]}
    assert len(volumes) == 7
    assert len(document["runs"]) == 1
    assert "it is JSON" in volumes["case_1"]["damaged"]
    assert (volumes["case_1"]["role"], volumes["case_1"]["shape"]) == ("labelled", None)
    assert (volumes["case_0"]["damaged"], volumes["case_0"]["shape"]) == (None, [16, 24, 20])
    printed = call("inspect", trained, *verify)
    assert printed.code == 4
    assert all(name in printed.out for name in ("case_0", "case_6", "finished", "damaged: "))


def test_a_run_whose_configuration_is_damaged_hides_nothing(call: Call, trained: Path) -> None:
    (run,) = (trained / "runs").iterdir()
    (run / "config.toml").write_text("iterations = many")
    answer = call("inspect", trained, "--json")
    assert answer.code == 0
    document = answer.json()
    assert len(document["volumes"]) == 7
    assert (document["runs"][0]["name"], document["runs"][0]["state"]) == (run.name, "damaged")
    assert "config.toml" in document["runs"][0]["message"]
    assert "damaged: " in call("inspect", trained).out


def test_a_run_says_whether_its_checkpoints_verify(call: Call, trained: Path) -> None:
    (run,) = runs(trained)
    document = call("inspect", run.path, "--json").json()
    assert document["config"]["network"]["base_filters"] == 2
    assert document["losses"]["total"] > 0
    assert [(c["name"], c["sound"]) for c in document["checkpoints"]] == [("step-00000003", True)]
    _flip_last_byte(run.checkpoints / "step-00000003" / "student.safetensors")
    document = call("inspect", run.path, "--json").json()
    assert [c["sound"] for c in document["checkpoints"]] == [False]
    assert "SHA-256" in call("inspect", run.path).out


def test_the_run_that_one_stands_in_is_named(
    call: Call, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = runs(trained)
    monkeypatch.chdir(run.path)
    assert call("inspect", ".", "--json").json()["name"] == run.name
    assert call("watch", ".").out.startswith(f"{run.name}: finished")


def test_a_nifti_file(call: Call, decathlon: Path) -> None:
    path = decathlon / "imagesTr" / "case_0.nii.gz"
    document = call("inspect", path, "--json").json()
    assert document["shape"] == [16, 24, 20]
    assert document["dtype"] == "uint8"
    assert "1.5" in call("inspect", path).out


def test_what_is_not_finite_is_null_in_json(call: Call, tmp_path: Path) -> None:
    voxels = np.zeros((4, 4, 4), np.float32)
    voxels[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "nan.nii.gz")
    answer = call("inspect", tmp_path / "nan.nii.gz", "--json")
    assert answer.code == 0
    assert (answer.json()["minimum"], "NaN" in answer.out) == (None, False)
    assert "nan" in call("inspect", tmp_path / "nan.nii.gz").out


@pytest.mark.parametrize("name", ["nothing", "."])
def test_what_is_none_of_these_is_refused(name: str, call: Call, tmp_path: Path) -> None:
    assert call("inspect", tmp_path / name).code == 2
