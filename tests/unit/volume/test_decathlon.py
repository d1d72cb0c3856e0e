from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_crln.errors import (
    CrlnError,
    GridMismatch,
    InvalidIntensity,
    InvalidLabel,
    ProjectError,
    UsageError,
)
from napari_crln.volume import decathlon
from napari_crln.volume.decathlon import import_decathlon
from napari_crln.volume.project import Project

ROOT = Path(__file__).resolve().parents[3]
MSD = {"0": "background", "2": "organ"}
NNUNET = {"background": 0, "organ": 2}
MakeFolder = Callable[..., Path]


def save(path: Path, array: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4), dtype=array.dtype), path)


@pytest.fixture
def make(tmp_path: Path) -> MakeFolder:
    """A data set of five training cases and two test cases; `suffix` goes between image name and extension."""

    def _make(labels: dict[str, Any], suffix: str = "", listed: bool = True, **extra: Any) -> Path:
        folder, rng = tmp_path / "set", np.random.default_rng(0)
        for part, cases in (("Tr", ("e", "b", "c", "a", "d")), ("Ts", ("t2", "t1"))):
            for case in cases:
                save(
                    folder / f"images{part}" / f"{case}{suffix}.nii.gz",
                    rng.integers(0, 9, (4, 5, 6), dtype=np.int16),
                )
                if part == "Tr":
                    label = 2 * rng.integers(0, 2, (4, 5, 6), dtype=np.uint8)
                    save(folder / "labelsTr" / f"{case}.nii.gz", label)
        content = {"labels": labels, "file_ending": ".nii.gz"} | extra
        if listed:
            content["training"] = [
                {"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in "ebcad"
            ]
            content["test"] = ["./imagesTs/t2.nii.gz", "./imagesTs/t1.nii.gz"]
        (folder / "dataset.json").write_text(json.dumps(content))
        return folder

    return _make


@pytest.mark.parametrize("labels", [MSD, NNUNET])
@pytest.mark.parametrize("suffix", ["", "_0000"])
@pytest.mark.parametrize("listed", [True, False])
def test_both_forms_with_and_without_lists(
    make: MakeFolder, tmp_path: Path, labels: dict[str, Any], suffix: str, listed: bool
) -> None:
    seen: list[tuple[int, int, str]] = []
    folder = make(labels, suffix, listed)
    project = import_decathlon(folder, tmp_path / "p.crln", 2, 1, lambda *now: seen.append(now))
    order = list("ebcad") if listed else list("abcde")
    tests = ["t2", "t1"] if listed else ["t1", "t2"]
    assert list(project.volumes) == order + tests
    roles = ["labelled"] * 2 + ["unlabelled"] * 2 + ["validation"] + ["test"] * 2
    assert [v.role for v in project.volumes.values()] == roles
    assert [v.has_annotation for v in project.volumes.values()] == [True] * 2 + [False] * 2 + [True] + [
        False
    ] * 2
    assert project.classes.names == ("background", "organ")
    assert seen == [(i, 7, name) for i, name in enumerate(project.volumes, start=1)]
    first = project.volumes[order[0]]
    expected = np.asarray(nib.load(folder / "labelsTr" / f"{order[0]}.nii.gz").dataobj).T // 2
    np.testing.assert_array_equal(first.read_targets(), expected)
    assert first.source.name == f"{order[0]}{suffix}.nii.gz"


def test_labels_of_unlabelled_cases_are_never_opened(make: MakeFolder, tmp_path: Path) -> None:
    folder = make(MSD)
    for case in "cad":
        (folder / "labelsTr" / f"{case}.nii.gz").unlink()
    assert len(import_decathlon(folder, tmp_path / "p.crln", 2).with_role("unlabelled")) == 3


def test_test_labels_are_kept_for_evaluation_only(make: MakeFolder, tmp_path: Path) -> None:
    folder = make(MSD)
    save(folder / "labelsTs" / "t1.nii.gz", np.zeros((4, 5, 6), np.uint8))
    project = import_decathlon(folder, tmp_path / "p.crln", 2)
    assert [(v.name, v.has_annotation) for v in project.with_role("test")] == [("t2", False), ("t1", True)]


def test_ignore_class_makes_labels_sparse(make: MakeFolder, tmp_path: Path) -> None:
    folder = make(NNUNET | {"ignore": 3}, listed=False)
    label = np.full((4, 5, 6), 3, np.uint8)
    label[0, 0, :2] = 0, 2
    save(folder / "labelsTr" / "a.nii.gz", label)
    volume = import_decathlon(folder, tmp_path / "p.crln", 1).volumes["a"]
    assert volume.coverage == "sparse"
    assert np.bincount(volume.read_annotation().ravel()).tolist() == [118, 1, 1]


def test_four_digit_case_numbers_are_no_channels(make: MakeFolder, tmp_path: Path) -> None:
    folder = make(MSD, listed=False)
    for part in ("imagesTr", "labelsTr"):
        for number, case in enumerate("abcde"):
            (folder / part / f"{case}.nii.gz").rename(folder / part / f"img_{number:04d}.nii.gz")
    for path in (folder / "imagesTs").iterdir():
        path.unlink()
    project = import_decathlon(folder, tmp_path / "p.crln", 5)
    assert list(project.volumes) == [f"img_{number:04d}" for number in range(5)]


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_dask_gives_the_same_project(make: MakeFolder, tmp_path: Path, scheduler: str) -> None:
    folder = make(MSD)
    one = import_decathlon(folder, tmp_path / "one.crln", 2, 1)
    two = import_decathlon(folder, tmp_path / "two.crln", 2, 1, scheduler=scheduler)

    def files(project: Project) -> dict[str, bytes]:
        return {
            str(p.relative_to(project.path)): p.read_bytes() for p in project.path.rglob("*") if p.is_file()
        }

    assert files(one) == files(two)


def test_an_address_without_the_extra_names_it(
    make: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decathlon, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"napari-crln\[cluster\]"):
        import_decathlon(make(MSD), tmp_path / "p.crln", 2, 1, scheduler="tcp://127.0.0.1:9")
    assert not (tmp_path / "p.crln").exists()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert extras["cluster"][0].startswith("distributed>=")


def test_a_scheduler_that_dask_does_not_know_is_named(make: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="scheduler 'thread'; it is threads, processes"):
        import_decathlon(make(MSD), tmp_path / "p.crln", 2, 1, scheduler="thread")


@pytest.mark.slow
def test_a_cluster_gives_the_same_project_and_a_silent_address_is_named(
    make: MakeFolder, tmp_path: Path
) -> None:
    """In a process of its own: a cluster's threads and warnings are not ours."""
    pytest.importorskip("distributed")
    folder = make(MSD)
    one = import_decathlon(folder, tmp_path / "one.crln", 2, 1)
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, str(folder), str(tmp_path / "two.crln")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no answer" in done.stdout
    two = Project.open(tmp_path / "two.crln")
    assert list(two.volumes) == list(one.volumes)
    for name, volume in one.volumes.items():
        np.testing.assert_array_equal(volume.read_image(), two.volume(name).read_image())


CLUSTER = """
import sys
import dask
from distributed import LocalCluster
from napari_crln.errors import UsageError
from napari_crln.volume.decathlon import import_decathlon
folder, project = sys.argv[1:]
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, protocol="tcp://") as cluster:
        import_decathlon(folder, project, 2, 1, scheduler=cluster.scheduler_address)
    dask.config.set({"distributed.comm.timeouts.connect": "1s"})
    try:
        import_decathlon(folder, project + "2", 2, 1, scheduler=cluster.scheduler_address)
    except UsageError as error:
        print(error)
"""


def spoil(folder: Path, what: str) -> None:
    """Break the data set in one way."""
    if what == "channels":
        save(folder / "imagesTr" / "a_0001.nii.gz", np.ones((4, 5, 6), np.int16))
    elif what == "shape":
        save(folder / "labelsTr" / "e.nii.gz", np.zeros((4, 5, 7), np.uint8))
    elif what == "last image":
        save(folder / "imagesTs" / "t1.nii.gz", np.full((4, 5, 6), np.nan, np.float32))
    elif what == "json":
        (folder / "dataset.json").write_text("{")
    elif what == "absent":
        (folder / "dataset.json").unlink()
    elif what == "regions":
        (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "whole": [1, 2]}}))
    elif what == "twice":
        content = json.loads((folder / "dataset.json").read_text())
        content["training"].append(content["training"][0])
        (folder / "dataset.json").write_text(json.dumps(content))


FAULTS: list[tuple[str, str, type[CrlnError], str]] = [
    ("shape", "", GridMismatch, "e.nii.gz: label and image differ: shape (7, 5, 4) against (6, 5, 4)"),
    ("last image", "", InvalidIntensity, "t1.nii.gz: 120 NaN or infinite voxels of 120"),
    ("json", "", CrlnError, "dataset.json: not JSON"),
    ("absent", "", UsageError, "no dataset.json"),
    ("regions", "", InvalidLabel, "regions of several ids are not supported"),
    ("twice", "", UsageError, "case e occurs twice"),
]


@pytest.mark.parametrize(("what", "suffix", "kind", "words"), FAULTS)
def test_a_bad_case_leaves_no_project(
    make: MakeFolder, tmp_path: Path, what: str, suffix: str, kind: type[CrlnError], words: str
) -> None:
    folder = make(MSD, suffix)
    spoil(folder, what)
    with pytest.raises(kind) as caught:
        import_decathlon(folder, tmp_path / "p.crln", 2)
    assert words in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_several_channels_are_refused(make: MakeFolder, tmp_path: Path) -> None:
    folder = make(NNUNET, "_0000", listed=False)
    spoil(folder, "channels")
    with pytest.raises(
        InvalidIntensity, match=r"a_0001\.nii\.gz: channel 0001 of case a; an image has one channel"
    ):
        import_decathlon(folder, tmp_path / "p.crln", 2)


@pytest.mark.parametrize(("labelled", "validation"), [(6, 0), (3, 3), (-1, 0), (0, -1)])
def test_counts(make: MakeFolder, tmp_path: Path, labelled: int, validation: int) -> None:
    with pytest.raises(UsageError, match="at most the 5 training cases"):
        import_decathlon(make(MSD), tmp_path / "p.crln", labelled, validation)


def test_an_existing_project_is_not_touched(make: MakeFolder, tmp_path: Path) -> None:
    target = tmp_path / "p.crln"
    target.mkdir()
    with pytest.raises(ProjectError, match="nothing is overwritten"):
        import_decathlon(make(MSD), target, 2)
    assert list(target.iterdir()) == []


def test_a_kill_leaves_no_project(make: MakeFolder, tmp_path: Path) -> None:
    def stop(done: int, total: int, name: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_decathlon(make(MSD), tmp_path / "p.crln", 2, progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def real(name: str) -> Path:
    """A folder of real data, or skip."""
    root = Path(os.environ.get("CRLN_DATA") or Path(__file__).parents[4] / "shared" / "data")
    if not (root / name / "dataset.json").exists():
        pytest.skip(f"no {name} below {root}")
    return root / name


@pytest.mark.data
@pytest.mark.parametrize("name", ["hippocampus", "la2018"])
def test_real_cases_come_in_exactly(tmp_path: Path, name: str) -> None:
    folder = real(name)
    content = json.loads((folder / "dataset.json").read_text())
    content["training"], content["test"] = content["training"][:3], content["test"][:1]
    subset = tmp_path / "subset"
    subset.mkdir()
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (subset / part).symlink_to(folder / part)
    (subset / "dataset.json").write_text(json.dumps(content))
    project = import_decathlon(subset, tmp_path / "p.crln", 1, 1)
    assert [v.role for v in project.volumes.values()] == ["labelled", "unlabelled", "validation", "test"]
    for entry, volume in zip(content["training"], project.volumes.values(), strict=False):
        image = nib.as_closest_canonical(nib.load(folder / entry["image"]))
        real_units = volume.read_image().astype(np.float64) * volume.scaling[0] + volume.scaling[1]
        np.testing.assert_allclose(real_units, image.get_fdata().T, rtol=1e-6)
        np.testing.assert_allclose(volume.grid.affine, image.affine)
        if volume.has_annotation:
            label = nib.as_closest_canonical(nib.load(folder / entry["label"]))
            np.testing.assert_array_equal(volume.read_targets(), np.asarray(label.dataobj).T)
