from __future__ import annotations

import json
import os
import re
import shutil
import socket
import threading
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_crln import durable
from napari_crln.errors import (
    CorruptData,
    CrlnError,
    GridMismatch,
    InvalidIntensity,
    InvalidLabel,
    OutOfSpace,
    ProjectError,
    UsageError,
)
from napari_crln.types import Role
from napari_crln.volume import manifest as toml
from napari_crln.volume import store
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.project import Project, locked

U8 = np.ndarray[Any, np.dtype[np.uint8]]
GRID = Grid.from_spacing((6, 7, 8), (3.0, 1.0, 0.5))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_volume_comes_back_as_it_went(project: Project, image: U8, annotation: U8) -> None:
    project.add("a", image, GRID, "labelled", annotation, scaling=(0.5, -1.0))
    volume = Project.open(project.path).volumes["a"]
    np.testing.assert_array_equal(volume.read_image(), image)
    np.testing.assert_array_equal(volume.image[2:4], image[2:4])
    np.testing.assert_array_equal(volume.read_annotation(), annotation)
    np.testing.assert_array_equal(volume.read_targets(), annotation.astype(int) - 1)
    assert volume.grid == GRID
    assert volume.scaling == (0.5, -1.0)
    assert (volume.role, volume.coverage, volume.revision, volume.has_annotation) == (
        "labelled",
        "dense",
        1,
        True,
    )
    assert volume.read_image().dtype == np.uint8


def test_roles_and_order(project: Project, image: U8, annotation: U8) -> None:
    for name, role in (("z", "unlabelled"), ("a", "test"), ("m", "labelled"), ("b", "unlabelled")):
        project.add(name, image, GRID, role, annotation if role == "labelled" else None)  # type: ignore[arg-type]
    project = Project.open(project.path)
    assert list(project.volumes) == ["z", "a", "m", "b"]
    assert [v.name for v in project.with_role("unlabelled")] == ["z", "b"]
    assert project.name == "p"


def test_opening_reads_nothing_but_the_manifest(
    project: Project, image: U8, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.add("a", image, GRID, "unlabelled")
    for name in ("read_attributes", "open_array", "read"):
        monkeypatch.setattr(store, name, None)
    assert list(Project.open(project.path).volumes) == ["a"]


def test_set_role(project: Project, image: U8, annotation: U8) -> None:
    project.add("a", image, GRID, "labelled", annotation)
    project.add("b", image, GRID, "unlabelled")
    assert project.set_role("a", "validation").role == "validation"
    assert Project.open(project.path).volumes["a"].role == "validation"
    with pytest.raises(ProjectError, match="role labelled without a label"):
        project.set_role("b", "labelled")
    with pytest.raises(ProjectError, match="no volume 'c'"):
        project.set_role("c", "test")


@pytest.mark.parametrize("role", ["labelled", "validation"])
def test_an_annotation_that_was_emptied_gives_no_role_that_needs_one(
    project: Project, image: U8, annotation: U8, role: Role
) -> None:
    volume = project.add("a", image, GRID, "test", annotation)
    volume.write_annotation(np.zeros_like(annotation), "sparse")
    with pytest.raises(ProjectError, match=f"role {role} without a label"):
        project.set_role("a", role)
    assert Project.open(project.path).volumes["a"].role == "test"


def test_test_label_without_foreground_is_kept_but_cannot_teach(project: Project, image: U8) -> None:
    background = np.ones((6, 7, 8), np.uint8)
    project.add("a", image, GRID, "test", background)
    with pytest.raises(InvalidLabel, match="only background"):
        project.set_role("a", "labelled")
    assert project.volumes["a"].role == "test"


def test_annotation_is_replaced_whole_with_a_new_revision(
    project: Project, image: U8, annotation: U8
) -> None:
    volume = project.add("a", image, GRID, "labelled", annotation)
    sparse = annotation.copy()
    sparse[0] = 0
    assert volume.write_annotation(sparse, "sparse") == 2
    assert (volume.revision, volume.coverage) == (2, "sparse")
    assert (volume.read_targets()[0] == -1).all()
    assert sorted(p.name for p in (volume.path / "labels").iterdir()) == ["annotation", "zarr.json"]


@pytest.mark.parametrize("renames", [0, 1])
def test_annotation_survives_a_kill_at_every_rename(
    project: Project, image: U8, annotation: U8, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = project.add("a", image, GRID, "labelled", annotation)
    done, rename = [], Path.rename

    def dying(self: Path, target: Path) -> Path:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        volume.write_annotation(annotation[::-1].copy(), "dense")
    monkeypatch.undo()
    volume = Project.open(project.path).volumes["a"]
    np.testing.assert_array_equal(volume.read_annotation(), annotation)
    assert volume.revision == 1
    assert volume.write_annotation(annotation[::-1].copy(), "dense") == 2
    np.testing.assert_array_equal(volume.read_annotation(), annotation[::-1])


def test_a_reader_never_sees_half_an_annotation(
    project: Project, image: U8, annotation: U8, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = project.add("a", image, GRID, "labelled", annotation)
    read, calls = store.read, []

    def overtaken(folder: Path) -> Any:
        calls.append(folder)
        if len(calls) == 1:  # another process replaces the annotation while its chunks are being read
            volume.write_annotation(annotation[::-1].copy(), "dense")
            raise CorruptData("chunk gone", "", "", folder)
        return read(folder)

    monkeypatch.setattr(store, "read", overtaken)
    np.testing.assert_array_equal(volume.read_annotation(), annotation[::-1])


def test_prediction_and_maps(project: Project, image: U8) -> None:
    volume = project.add("a", image, GRID, "unlabelled")
    assert not volume.has_prediction
    with pytest.raises(ProjectError, match="no prediction"):
        volume.read_prediction()
    volume.write_prediction(image % 3, {"run": "r1", "mu": 0.25})
    volume.write_prediction((image + 1) % 3, {"run": "r2"})
    np.testing.assert_array_equal(volume.read_prediction(), (image + 1) % 3)
    assert volume.prediction_attributes == {"run": "r2"}
    clues = np.random.default_rng(0).normal(size=(3, 6, 7, 8)).astype(np.float32)
    volume.write_map("clues", clues)
    np.testing.assert_array_equal(store.read(volume.path / "maps" / "clues" / "0"), clues)
    with pytest.raises(GridMismatch, match=r"prediction of shape \(1, 1, 1\)"):
        volume.write_prediction(np.zeros((1, 1, 1), np.uint8))
    with pytest.raises(ProjectError, match=r"volume name"):
        volume.write_map("../x", clues)


def test_an_array_gets_a_source_of_its_own(project: Project, image: U8) -> None:
    volume = project.add("a", image, GRID, "unlabelled")
    assert volume.source.name == "a.nii.gz"
    assert volume.source.grid.difference(GRID) is None
    np.testing.assert_array_equal(volume.source.to_file(image), image.T)


REFUSALS: list[tuple[dict[str, Any], type[CrlnError], str]] = [
    ({"image": np.zeros((6, 7, 8))}, InvalidIntensity, "every voxel is 0"),
    ({"image": np.full((6, 7, 8), np.nan)}, InvalidIntensity, "336 NaN or infinite voxels of 336"),
    ({"image": np.ones((6, 7, 9))}, GridMismatch, "image of shape (6, 7, 9)"),
    ({"annotation": None}, ProjectError, "role labelled without a label"),
    ({"annotation": np.ones((6, 7, 8), np.uint8)}, InvalidLabel, "only background"),
    ({"annotation": np.zeros((6, 7, 8), np.uint8), "coverage": "sparse"}, InvalidLabel, "no annotated voxel"),
    (
        {"annotation": np.eye(8, dtype=np.uint8)[None, :7].repeat(6, 0)},
        InvalidLabel,
        "294 voxels are not annotated",
    ),
    ({"annotation": np.full((6, 7, 8), 4, np.uint8)}, InvalidLabel, "annotation of uint8 up to 4"),
    ({"annotation": np.ones((6, 7, 8), np.int32)}, InvalidLabel, "annotation of int32"),
    ({"annotation": np.ones((6, 7, 9), np.uint8)}, GridMismatch, "annotation of shape (6, 7, 9)"),
    ({"role": "unlabelled"}, UsageError, "a label for role unlabelled"),
    ({"name": "First"}, ProjectError, "volume 'First' exists; names are unique, whatever their case"),
]


@pytest.mark.parametrize(("change", "kind", "words"), REFUSALS)
def test_a_refusal_changes_nothing(
    project: Project, image: U8, annotation: U8, change: dict[str, Any], kind: type[CrlnError], words: str
) -> None:
    project.add("first", image, GRID, "labelled", annotation)
    before = tree(project.path)
    given = {"name": "n", "image": image, "grid": GRID, "role": "labelled", "annotation": annotation} | change
    with pytest.raises(CrlnError) as caught:
        project.add(**given)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert tree(project.path) == before
    assert list(project.volumes) == ["first"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "a/b", "a\\b", "../a", "a\n", "a.", "a ", "-a", "a:b", "a" * 129]
)
def test_names_that_are_no_plain_file_names(project: Project, image: U8, name: str) -> None:
    with pytest.raises(ProjectError, match="a name begins with a letter or digit"):
        project.add(name, image, GRID, "unlabelled")


@pytest.mark.parametrize("name", ["a", "7", "Fall_01", "hippocampus_001", "脳 1", "a.b-c+d"])
def test_names_that_are(project: Project, image: U8, name: str) -> None:
    assert project.add(name, image, GRID, "unlabelled").read_image().shape == (6, 7, 8)


FAULTS = ["write_multiscale", "sync_tree", "write"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_kill_anywhere_leaves_the_project_as_it_was(
    project: Project, image: U8, annotation: U8, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.add("first", image, GRID, "unlabelled")
    before = tree(project.path)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    owner = {"write_multiscale": store, "sync_tree": durable, "write": toml}[fault]
    monkeypatch.setattr(owner, fault, die)
    with pytest.raises(KeyboardInterrupt):
        project.add("second", image, GRID, "labelled", annotation)
    monkeypatch.undo()
    after = tree(project.path)
    assert {name: after[name] for name in before} == before
    project = Project.open(project.path)
    assert list(project.volumes) == ["first"]
    assert project.add("second", image, GRID, "unlabelled").name == "second"  # and it can be repeated
    np.testing.assert_array_equal(project.volumes["second"].read_image(), image)


def test_what_a_killed_import_left_is_gone_after_the_next(project: Project, image: U8) -> None:
    volumes = project.path / "volumes"
    name = durable.temporary(volumes / "x.zarr").name
    dead = volumes / name.replace(f"-{os.getpid()}-", "-999999999-")
    (dead / "0").mkdir(parents=True)
    project.add("a", image, GRID, "unlabelled")
    assert [path.name for path in volumes.iterdir()] == ["a.zarr"]


def test_an_unlisted_folder_is_moved_aside_not_lost(project: Project, image: U8) -> None:
    stranger = project.path / "volumes" / "a.zarr"
    stranger.mkdir()
    (stranger / "mine").write_text("x")
    project.add("a", image, GRID, "unlabelled")
    assert (project.path / "volumes" / ".a.zarr.unlisted-1" / "mine").read_text() == "x"


def test_a_full_disk_says_so(project: Project, image: U8, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_multiscale", full)
    with pytest.raises(OutOfSpace, match="nothing was changed"):
        project.add("a", image, GRID, "unlabelled")
    assert list((project.path / "volumes").iterdir()) == []


def test_two_open_projects_do_not_undo_each_other(project: Project, image: U8, annotation: U8) -> None:
    other = Project.open(project.path)
    project.add("a", image, GRID, "labelled", annotation)
    other.add("b", image, GRID, "unlabelled")
    project.set_role("a", "test")
    assert {v.name: v.role for v in Project.open(project.path).volumes.values()} == {
        "a": "test",
        "b": "unlabelled",
    }


def test_two_at_once_cannot_both_add_a_name(project: Project, image: U8) -> None:
    """Of their data (even, odd) the listed one's stay, and no trace of the other's."""
    barrier, refused = threading.Barrier(2), []

    def add(value: int) -> None:
        opened = Project.open(project.path)
        barrier.wait()
        try:
            opened.add("a", (image & 254) + np.uint8(value), GRID, "unlabelled")
        except ProjectError as error:
            refused.append((value, str(error)))

    threads = [threading.Thread(target=add, args=(value,)) for value in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ((loser, words),) = refused
    assert "volume 'a' exists" in words
    found = Project.open(project.path).volumes["a"].read_image()
    assert (found % 2 != loser).all()
    assert [path.name for path in (project.path / "volumes").iterdir()] == ["a.zarr"]


def test_a_name_taken_while_the_data_were_written_is_refused(
    project: Project, image: U8, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, other = store.write_multiscale, Project.open(project.path)

    def overtaken(*arguments: Any, **options: Any) -> None:
        monkeypatch.undo()
        other.add("a", image, GRID, "test")
        original(*arguments, **options)

    monkeypatch.setattr(store, "write_multiscale", overtaken)
    with pytest.raises(ProjectError, match="volume 'a' exists"):
        project.add("a", image, GRID, "unlabelled")
    assert Project.open(project.path).volumes["a"].role == "test"
    assert [path.name for path in (project.path / "volumes").iterdir()] == ["a.zarr"]


def test_lock_is_held_released_and_broken_when_its_owner_is_gone(project: Project) -> None:
    path = project.path / ".lock"
    with (
        locked(project.path),
        pytest.raises(
            ProjectError, match=rf"held by process {os.getpid()}.*changes a project.*delete \.lock"
        ),
        locked(project.path, patience=0),
    ):
        pass
    assert not path.exists()
    dead = {"pid": 999999999, "host": socket.gethostname(), "since": "then", "started": "boot:1"}
    path.write_text(json.dumps(dead))
    with locked(project.path, patience=0):
        pass
    assert not path.exists()


def test_a_change_waits_for_another_to_be_done(project: Project, image: U8) -> None:
    held = locked(project.path)
    held.acquire()
    timer = threading.Timer(0.2, held.release)
    timer.start()
    project.add("a", image, GRID, "unlabelled")
    timer.join()
    assert list(project.volumes) == ["a"]


def test_comments_of_a_hand_are_kept(project: Project, image: U8) -> None:
    path = project.path / "project.toml"
    path.write_text(path.read_text() + '\n# my note\n[mine]\nkey = "value"\n')
    project.add("a", image, GRID, "unlabelled")
    assert "# my note" in path.read_text()
    assert tomllib.loads(path.read_text())["mine"] == {"key": "value"}
    assert list(Project.open(project.path).volumes) == ["a"]


def test_keys_and_comments_within_the_tables_are_kept(project: Project, image: U8, annotation: U8) -> None:
    project.add("a", image, GRID, "labelled", annotation)
    project.add("b", image, GRID, "unlabelled")
    path = project.path / "project.toml"
    name = project.classes.names[1]
    path.write_text(
        path.read_text()
        .replace(f'name = "{name}"', f'name = "{name}" # by hand\nontology = "FMA:7197"')
        .replace('name = "a"', '# of Dr X\nname = "a"\nnote = "scanner B"')
    )
    Project.open(project.path).set_role("a", "test")
    Project.open(project.path).add("c", image, GRID, "unlabelled")
    text, written = path.read_text(), tomllib.loads(path.read_text())
    assert "# by hand" in text
    assert "# of Dr X" in text
    assert written["classes"][1]["ontology"] == "FMA:7197"
    assert written["volumes"][0] == {"name": "a", "note": "scanner B", "role": "test"}
    assert [each["name"] for each in written["volumes"]] == ["a", "b", "c"]


def test_a_manifest_does_not_grow_by_being_written(project: Project, image: U8) -> None:
    for name in ("a", "b"):
        project.add(name, image, GRID, "unlabelled")
    path = project.path / "project.toml"
    before = path.read_text()
    for role in ("test", "unlabelled", "test", "unlabelled"):
        Project.open(project.path).set_role("a", role)  # type: ignore[arg-type]
    assert path.read_text() == before


def test_arrays_in_one_line_are_read_and_written(project: Project, image: U8) -> None:
    project.add("a", image, GRID, "unlabelled")
    path = project.path / "project.toml"
    values = tomllib.loads(path.read_text())
    classes = ", ".join(
        f'{{name = "{c["name"]}", source_id = {c["source_id"]}, colour = "{c["colour"]}"}}'
        for c in values["classes"]
    )
    path.write_text(
        f'schema_version = 1\nnormalisation = "{values["normalisation"]}"\nclasses = [{classes}]\n'
        'volumes = [{name = "a", role = "unlabelled", note = "mine"}]\n'
    )
    Project.open(project.path).set_role("a", "test")
    written = tomllib.loads(path.read_text())
    assert written["volumes"] == [{"name": "a", "role": "test", "note": "mine"}]
    assert written["classes"] == values["classes"]


BROKEN = [
    ("schema_version = 2", "schema 2; this version reads up to 1"),
    ("schema_version =", "not TOML"),
    ("schema_version = 1\nclasses = []", "normalisation: Field required"),
    (
        'normalisation = "zscore"\nclasses = []\nvolumes = [{name = "../x", role = "test"}]',
        "volume name '../x'",
    ),
    ('normalisation = "zscore"\nclasses = []\nvolumes = [{name = "x", role = "boss"}]', "volumes.0.role"),
    (
        'normalisation = "none"\nclasses = []\n'
        'volumes = [{name = "x", role = "test"}, {name = "X", role = "test"}]',
        "'x' is listed twice",
    ),
]


@pytest.mark.parametrize(("text", "words"), BROKEN)
def test_broken_manifests(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "project.toml").write_text(text)
    with pytest.raises(ProjectError) as caught:
        Project.open(tmp_path)
    assert words in str(caught.value)


def test_no_project_and_taken_path(tmp_path: Path, table: ClassTable) -> None:
    with pytest.raises(ProjectError, match="no project here"):
        Project.open(tmp_path)
    with pytest.raises(ProjectError, match="nothing is overwritten"):
        Project.create(tmp_path, table)


def test_damaged_attributes_are_named(project: Project, image: U8) -> None:
    volume = project.add("a", image, GRID, "unlabelled")
    path = volume.path / "zarr.json"
    text = path.read_text().replace('"scaling"', '"scalding"')
    path.write_text(text)
    with pytest.raises(CorruptData, match=r"zarr\.json does not match its seal"):
        _ = Project.open(project.path).volumes["a"].scaling
    path.write_text(re.sub(r',\s*"sha256": "\w+"', "", text))  # as before descriptions were sealed
    with pytest.raises(CorruptData, match="attribute scaling"):
        _ = Project.open(project.path).volumes["a"].scaling


@pytest.mark.parametrize("role", ["labelled", "validation", "unlabelled", "test"])
def test_role_round_trip(project: Project, image: U8, annotation: U8, role: Role) -> None:
    project.add("a", image, GRID, role, None if role == "unlabelled" else annotation)
    assert Project.open(project.path).volumes["a"].role == role


def test_a_lost_volume_folder_is_named_when_it_is_read(project: Project, image: U8) -> None:
    project.add("a", image, GRID, "unlabelled")
    shutil.rmtree(project.path / "volumes" / "a.zarr")
    volume = Project.open(project.path).volumes["a"]
    with pytest.raises(CorruptData, match=r"a\.zarr"):
        volume.read_image()
    with pytest.raises(CorruptData, match=r"a\.zarr"):
        _ = volume.normalisation
