"""Names, links and metadata that point elsewhere: nothing outside is read or written."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from playground import SPECIAL, Call, Playground, ids, save, unopened, voxels

from napari_crln import config
from napari_crln.errors import CorruptData, CrlnError, ProjectError, UsageError
from napari_crln.gui import project_reader
from napari_crln.gui.project_files import read_volume
from napari_crln.run.folder import RunFolder
from napari_crln.volume.project import Project

Sound = Callable[[Project], None]
NAMES = [
    "../away",
    "..",
    "/abs",
    "a/b",
    "a\\b",
    "c:d",
    ".hidden",
    "a\nb",
    "a\0b",
    "",
    "x" * 200,
    "volumes/../../x",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_paths(
    empty: Project, ground: Playground, call: Call, sound: Sound, name: str
) -> None:
    image = save(ground.inside / "i.nii", voxels())
    assert call("import", image, empty.path, f"--name={name}").code == (
        4 if name else 0
    )  # "": the file's own
    with pytest.raises(ProjectError):
        empty.volume_path(name)
    with pytest.raises(CrlnError):
        RunFolder.create(empty.path, config.build({}), name or "/")
    text = (empty.path / "project.toml").read_text()
    quoted = json.dumps(name)  # a TOML string too
    (empty.path / "project.toml").write_text(f'{text}\n[[volumes]]\nname = {quoted}\nrole = "test"\n')
    answer = call("inspect", empty.path)
    assert (answer.code, "Traceback" in answer.err) == (4, False)
    (empty.path / "project.toml").write_text(text)
    sound(empty)


@pytest.mark.parametrize("run", ["../../outside", "..", "/etc", "runs/../.."])
def test_runs_are_found_by_name_only(project: Project, call: Call, sound: Sound, run: str) -> None:
    for command in ("resume", "predict", "evaluate"):
        assert call(command, project.path, "--run", run).code in (4, 5)
    sound(project)


@pytest.mark.parametrize("key", ["image", "label"])
@pytest.mark.parametrize(
    "path", ["../outside/s.nii.gz", "{outside}/s.nii.gz", "imagesTr/../../outside/s.nii.gz", 7, None]
)
def test_dataset_json_that_names_files_elsewhere(
    ground: Playground, call: Call, key: str, path: object
) -> None:
    save(ground.outside / "s.nii.gz", voxels())
    save(ground.inside / "d" / "imagesTr" / "c.nii.gz", voxels())
    save(ground.inside / "d" / "labelsTr" / "c.nii.gz", ids())
    before = ground.touched()
    named = path.format(outside=ground.outside) if isinstance(path, str) else path
    case = {"image": "imagesTr/c.nii.gz", "label": "labelsTr/c.nii.gz", key: named}
    described = {"labels": {"background": 0, "a": 4, "b": 7}, "training": [case]}
    (ground.inside / "d" / "dataset.json").write_text(json.dumps(described))
    with unopened(ground.outside):
        answer = call("import", ground.inside / "d", ground.project_path, "--labelled=1")
    if key == "label" and path is None:
        assert answer.code == 0  # as if it were not named: labelsTr/ has it
    else:
        assert answer.code == 3, answer.err
        assert "below its own folder" in answer.err
        assert not ground.project_path.exists()
    assert ground.touched() == before
    (ground.outside / "s.nii.gz").unlink()


@pytest.mark.parametrize("ending", ["/../../outside/s.nii.gz", ".npy", "", 3])
def test_dataset_json_with_another_ending(ground: Playground, call: Call, ending: object) -> None:
    save(ground.inside / "d" / "imagesTr" / "c.nii.gz", voxels())
    described = {"labels": {"background": 0, "a": 4}, "file_ending": ending}
    (ground.inside / "d" / "dataset.json").write_text(json.dumps(described))
    answer = call("import", ground.inside / "d", ground.project_path, "--labelled=1")
    assert (answer.code, "file_ending" in answer.err) == (3, True), answer.err


@pytest.mark.usefixtures("leaves_damage")
def test_a_zip_store_is_neither_opened_nor_unpacked(project: Project, ground: Playground, call: Call) -> None:
    path = project.volumes["u1"].path
    shutil.rmtree(path)
    with zipfile.ZipFile(path, "w") as store:
        store.writestr("../../../outside/evil", "x")
        store.writestr("zarr.json", '{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(CorruptData, match=r"u1\.zarr.*no zarr\.json"):
        project.volumes["u1"].read_image()
    assert call("inspect", project.path, "--verify").code == 4
    assert call("import", path, project.path, "--name=z").code == 3


@pytest.mark.parametrize(
    "entry", ["../../../../outside/evil", "/outside/evil", "0/c/../../../evil", "0\\c\\0", "0/c/0/0/0.py"]
)
def test_a_journal_with_entries_elsewhere_is_not_laid_out(
    project: Project, ground: Playground, entry: str
) -> None:
    """What a killed writer left is laid out by the next one: a zip, so its names are not to be trusted."""
    volume = project.volumes["l1"]
    revision, values = volume.revision, volume.read_annotation()
    left = volume.path.with_name(f".{volume.path.name}.change-{revision + 1}")
    with zipfile.ZipFile(left, "w") as archive:
        archive.writestr(entry, "x")
        archive.writestr("zarr.json", (volume.path / "labels" / "annotation" / "zarr.json").read_bytes())
    before = sorted(ground.inside.rglob("*"))
    with pytest.raises(CorruptData, match="a damaged journal"):
        volume.read_annotation()
    assert sorted(p for p in ground.inside.rglob("*") if not p.name.endswith(".lock")) == before
    left.unlink()
    np.testing.assert_array_equal(volume.read_annotation(), values)


@pytest.mark.usefixtures("leaves_damage")
def test_a_journal_is_not_laid_out_through_a_link(project: Project, ground: Playground) -> None:
    volume = project.volumes["l1"]
    target = _linked(volume.path / "labels" / "annotation" / "0", ground)
    left = volume.path.with_name(f".{volume.path.name}.change-{volume.revision + 1}")
    with zipfile.ZipFile(left, "w") as archive:
        archive.writestr("0/c/0/0/0", "x")
        archive.writestr("zarr.json", (volume.path / "labels" / "annotation" / "zarr.json").read_bytes())
    before = (target / "c" / "0" / "0" / "0").read_bytes()
    with pytest.raises(CorruptData, match="a link"):
        volume.read_annotation()
    assert (target / "c" / "0" / "0" / "0").read_bytes() == before


def test_paths_in_ome_metadata_are_not_followed(project: Project, ground: Playground) -> None:
    """`datasets[].path` may name anything; volumes are read from the folders 0, 1, 2 … that they have."""
    volume = project.volumes["u1"]
    expected = volume.read_image()
    shutil.copytree(volume.path, ground.inside / "other.zarr")
    document = json.loads((volume.path / "zarr.json").read_text())
    for dataset in document["attributes"]["ome"]["multiscales"][0]["datasets"]:
        dataset["path"] = "../../../other.zarr/0"
    (volume.path / "zarr.json").write_text(json.dumps(document))
    other = ground.inside / "other.zarr" / "0" / "c" / "0" / "0" / "0"
    other.write_bytes(b"not to be read: it would be an error")
    reopened = Project.open(project.path)
    np.testing.assert_array_equal(reopened.volumes["u1"].read_image(), expected)
    np.testing.assert_array_equal(np.asarray(read_volume(project.path, "u1").image), expected)
    for data, _, _ in project_reader.read_project(str(project.path)):
        np.asarray(data)


def _linked(path: Path, ground: Playground) -> Path:
    """Move a file or folder out of the project, and put a link in its place."""
    target = ground.inside / f"moved-{path.name}"
    path.rename(target)
    path.symlink_to(target)
    return target


READS: dict[str, tuple[str, Callable[[Project], object]]] = {
    "volumes": ("volumes", lambda p: p.volumes["l1"].read_image()),
    "volume": ("volumes/l1.zarr", lambda p: p.volumes["l1"].read_image()),
    "array": ("volumes/l1.zarr/0", lambda p: p.volumes["l1"].read_image()),
    "lazily": ("volumes/l1.zarr/0", lambda p: p.volumes["l1"].image[:]),
    "description": ("volumes/l1.zarr/0/zarr.json", lambda p: p.volumes["l1"].image),
    "record": ("volumes/l1.zarr/zarr.json", lambda p: p.volumes["l1"].normalisation),
    "chunk": ("volumes/l1.zarr/0/c/0/0/0", lambda p: p.volumes["l1"].read_image()),
    "folder of chunks": ("volumes/l1.zarr/0/c/0", lambda p: p.volumes["l1"].image[:]),
    "labels": ("volumes/l1.zarr/labels", lambda p: p.volumes["l1"].read_annotation()),
    "annotation": ("volumes/l1.zarr/labels/annotation", lambda p: p.volumes["l1"].read_targets()),
    "array of labels": ("volumes/l1.zarr/labels/annotation/0", lambda p: p.volumes["l1"].read_targets()),
    "prediction": ("volumes/l1.zarr/labels/prediction", lambda p: p.volumes["l1"].read_prediction()),
    "manifest": ("project.toml", lambda p: Project.open(p.path)),
}


@pytest.mark.usefixtures("leaves_damage")
@pytest.mark.parametrize("case", READS)
def test_links_are_not_read_through(project: Project, ground: Playground, call: Call, case: str) -> None:
    part, read = READS[case]
    project = Project.open(project.path)  # nothing of it read yet
    _linked(project.path / part, ground)
    with pytest.raises((CorruptData, ProjectError)) as caught:
        read(project)
    assert str(project.path) in str(caught.value)
    answer = call("inspect", project.path, "--verify")
    assert (answer.code, "Traceback" in answer.err) == (4, False), answer.err


WRITES: dict[str, tuple[str, Callable[[Project], object]]] = {
    "annotation": (
        "labels",
        lambda p: p.volumes["l1"].write_annotation(np.ones((22, 20, 18), np.uint8), "dense"),
    ),
    "prediction": ("labels", lambda p: p.volumes["l1"].write_prediction(np.ones((22, 20, 18), np.uint8))),
    "map": ("maps", lambda p: p.volumes["l1"].write_map("clues", np.ones((22, 20, 18), np.float16))),
    "volume": ("..", lambda p: p.add("new", voxels().T, p.volumes["l1"].grid, "test")),
}


@pytest.mark.parametrize("case", WRITES)
def test_links_are_not_written_through(project: Project, ground: Playground, case: str) -> None:
    part, write = WRITES[case]
    volume = project.volumes["l1"]
    if part == "maps":
        volume.write_map("other", np.zeros((22, 20, 18), np.float16))
    target = _linked(project.path / "volumes" if part == ".." else volume.path / part, ground)
    before = sorted(target.rglob("*"))
    with pytest.raises(ProjectError, match="a link leads to"):
        write(project)
    assert sorted(target.rglob("*")) == before
    link = project.path / "volumes" if part == ".." else volume.path / part
    link.unlink()
    target.rename(link)


def test_a_link_for_the_folder_of_runs(project: Project, ground: Playground) -> None:
    (project.path / "runs").rmdir()
    (project.path / "runs").symlink_to(ground.outside)
    with pytest.raises(ProjectError, match="a link leads to"):
        RunFolder.create(project.path, config.build({}))


def test_a_project_may_itself_be_reached_by_a_link(
    project: Project, ground: Playground, sound: Sound
) -> None:
    link = ground.inside / "link.crln"
    link.symlink_to(project.path)
    opened = Project.open(link)
    np.testing.assert_array_equal(opened.volumes["l1"].read_image(), voxels(0)[::-1, ::-1].T)
    opened.volumes["l1"].write_annotation(opened.volumes["l1"].read_annotation(), "dense")
    sound(opened)


@pytest.mark.parametrize("put", SPECIAL)
@pytest.mark.parametrize("file", ["project.toml", "config.toml", "zarr.json", "dataset.json", "image.nii"])
def test_special_files_for_small_ones(
    project: Project, ground: Playground, call: Call, put: Callable[..., None], file: str
) -> None:
    """A link, a pipe, a folder and a terabyte of nothing: refused at once, where a file was expected."""
    run = RunFolder.create(project.path, config.build({}), "r")
    places: dict[str, tuple[Path, Callable[[], int]]] = {
        "project.toml": (project.path / file, lambda: call("inspect", project.path).code),
        "config.toml": (run.path / file, lambda: call("resume", project.path).code),
        "zarr.json": (project.volumes["l1"].path / file, lambda: call("inspect", project.path).code),
        "dataset.json": (
            ground.inside / file,
            lambda: call("import", ground.inside, "q.crln", "--labelled=1").code,
        ),
        "image.nii": (ground.inside / file, lambda: call("import", ground.inside / file, project.path).code),
    }
    path, attempt = places[file]
    before = path.read_bytes() if path.exists() else None
    path.unlink(missing_ok=True)
    put(path, ground)
    assert attempt() in (2, 3, 4)
    path.rmdir() if path.is_dir() else path.unlink()
    path.write_bytes(before) if before is not None else None


def test_links_in_a_folder_to_import_are_followed(ground: Playground, call: Call) -> None:
    """Data sets are often put together of links; the user names the folder, and its own files are only read."""
    save(ground.inside / "store" / "x.nii.gz", voxels())
    save(ground.inside / "store" / "y.nii.gz", ids())
    for part, file in (("imagesTr", "x"), ("labelsTr", "y")):
        (ground.inside / "d" / part).mkdir(parents=True)
        (ground.inside / "d" / part / "c.nii.gz").symlink_to(ground.inside / "store" / f"{file}.nii.gz")
    (ground.inside / "d" / "dataset.json").write_text('{"labels": {"background": 0, "a": 4, "b": 7}}')
    answer = call("import", ground.inside / "d", ground.project_path, "--labelled=1")
    assert answer.code == 0, answer.err
    volume = ground.open().volumes["c"]
    assert not volume.path.is_symlink()
    np.testing.assert_array_equal(
        nib.load(ground.inside / "store" / "x.nii.gz").shape, volume.image.shape[::-1]
    )


@pytest.mark.usefixtures("leaves_damage")
def test_predictions_are_exported_below_the_folder_asked_for(project: Project, ground: Playground) -> None:
    """The source's file name, kept with a volume, is a name and no path."""
    path = project.volumes["l1"].path / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["crln"]["source"]["name"] = "../../outside/evil.nii.gz"
    path.write_text(json.dumps(document))
    with pytest.raises((CorruptData, UsageError)):
        _ = Project.open(project.path).volumes["l1"].source
    del document["attributes"]["crln"]["sha256"]  # as a forger would
    path.write_text(json.dumps(document))
    with pytest.raises(CorruptData, match="name"):
        _ = Project.open(project.path).volumes["l1"].source
