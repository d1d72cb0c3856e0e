"""Disks that are full or read-only, each a small tmpfs: one line, nothing half-written, and what was there stays."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playground import SHAPE, Call, Playground, ids, save

from napari_crln import config
from napari_crln.durable import TEMPORARY
from napari_crln.errors import CorruptData, OutOfSpace, ProjectError
from napari_crln.run.folder import RunFolder
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.nifti import write_image
from napari_crln.volume.project import Project

FULL = re.compile(r"(more than )?\d+ bytes are needed and \d+ are free")


class Disk:
    """A tmpfs of 4 MB."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, *options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", ",".join(["size=4m", *options]), "tmpfs", str(self.path)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small tmpfs is refused: it takes root")

    def fill(self, leave: int) -> None:
        """Take all but so many bytes, rounded to pages."""
        free = shutil.disk_usage(self.path).free - leave
        with (self.path / "filler").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free)


@pytest.fixture
def disk(project: Project, ground: Playground) -> Iterator[Disk]:
    """The project moved to a disk of its own, as `ground.project_path` is then a folder of it."""
    disk = Disk(ground.inside / "disk")
    disk.path.mkdir()
    disk.mount()
    try:
        shutil.copytree(project.path, disk.path / "p.crln")
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk.path)], capture_output=True, check=False)


def _noise(seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """What no compression makes smaller, 22 × 20 × 18."""
    return np.random.default_rng(seed).integers(0, 255, SHAPE[::-1], dtype=np.uint8)


def _state(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


WRITES: dict[str, Callable[[Project], object]] = {
    "import": lambda p: p.add("new", _noise(), p.volumes["l1"].grid, "test"),
    "prediction": lambda p: p.volumes["u1"].write_prediction(_noise() % 3),
    "second prediction": lambda p: p.volumes["l1"].write_prediction(_noise() % 3),
    "annotation": lambda p: p.volumes["l1"].write_annotation(_noise() % 3 + 1, "dense"),
    "first annotation": lambda p: p.volumes["u1"].write_annotation(_noise() % 3 + 1, "dense"),
    "map": lambda p: p.volumes["l1"].write_map("clues", _noise().astype(np.float16)),
    "role": lambda p: p.set_role("u1", "test"),
    "run": lambda p: RunFolder.create(p.path, config.build({})),
    "project": lambda p: Project.create(p.path.parent / "q.crln", ClassTable.from_ids({"background": 0, "a": 1})),
    "NIfTI": lambda p: write_image(p.path.parent / "out.nii", _noise(), p.volumes["l1"].source),
}  # fmt: skip


@pytest.mark.parametrize("leave", [0, 4096])
@pytest.mark.parametrize("write", WRITES)
def test_a_full_disk_is_said_and_changes_nothing(disk: Disk, call: Call, write: str, leave: int) -> None:
    project = Project.open(disk.path / "p.crln")
    disk.fill(leave)
    before = _state(disk.path)
    fits = False
    try:
        WRITES[write](project)
        fits = True
    except OutOfSpace as error:
        message = str(error)
    if fits:
        assert write in ("role", "project"), "a page was enough"
        before = _state(disk.path)
    else:
        assert FULL.search(message)
    after = _state(disk.path)
    assert {name for name in after if TEMPORARY in name} == set()
    assert after == before
    (disk.path / "filler").unlink()
    answer = call("inspect", project.path, "--verify", "--json")
    assert answer.code == 0, answer.err
    WRITES[write](Project.open(project.path)) if write not in ("role", "project") else None


def test_import_by_command_line_onto_a_full_disk(disk: Disk, ground: Playground, call: Call) -> None:
    image = save(ground.inside / "i.nii", _noise().T)
    disk.fill(8192)
    answer = call("import", image, disk.path / "p.crln")
    assert answer.code == OutOfSpace.exit_code
    assert answer.err.count("\n") == 1
    assert FULL.search(answer.err)
    assert "Free some space" in answer.err


def test_a_folder_onto_a_full_disk_leaves_no_project(disk: Disk, ground: Playground, call: Call) -> None:
    for part, array in (("imagesTr", _noise().T), ("labelsTr", ids())):
        save(ground.inside / "d" / part / "c.nii.gz", array)
    (ground.inside / "d" / "dataset.json").write_text('{"labels": {"background": 0, "a": 4, "b": 7}}')
    disk.fill(8192)
    answer = call("import", ground.inside / "d", disk.path / "q.crln", "--labelled=1")
    assert (answer.code, bool(FULL.search(answer.err))) == (OutOfSpace.exit_code, True), answer.err
    assert sorted(p.name for p in disk.path.iterdir()) == ["filler", "p.crln"]


@pytest.mark.parametrize("write", WRITES)
def test_a_read_only_disk_is_said_and_read(disk: Disk, call: Call, write: str) -> None:
    disk.mount("remount", "ro")
    project = Project.open(disk.path / "p.crln")
    with pytest.raises(ProjectError, match="Read-only file system"):
        WRITES[write](project)
    answer = call("inspect", project.path, "--verify", "--json")
    assert answer.code == 0, answer.err
    project.volumes["l1"].read_targets()


@pytest.mark.parametrize("command", [["import", "{image}", "{project}"], ["role", "{project}", "u1", "--to=test"],
                                     ["train", "{project}", "--device=cpu"], ["init", "{disk}/q", "--class=a"]])  # fmt: skip
def test_commands_on_a_read_only_disk_end_in_one_line(
    disk: Disk, ground: Playground, call: Call, command: list[str]
) -> None:
    image = save(ground.inside / "i.nii", _noise().T)
    disk.mount("remount", "ro")
    names = {"image": image, "project": disk.path / "p.crln", "disk": disk.path}
    answer = call(*(part.format(**names) for part in command))
    assert answer.code == ProjectError.exit_code, answer.err
    assert "Read-only file system" in answer.err.splitlines()[-1]
    assert "fault of the program" not in answer.err


def test_a_disk_that_fails_to_read_names_array_and_chunk(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO, as of a dying disk: no zeros, no traceback of Zarr's."""
    from zarr.storage import _local

    def failing(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    image = project.volumes["l1"].image
    with monkeypatch.context() as broken:
        broken.setattr(_local, "_get", failing)
        with pytest.raises(CorruptData, match=r"c/0/0/0.*Input/output error"):
            _ = image[3]
        with pytest.raises(CorruptData, match=r"l1\.zarr/0.*Input/output error"):
            project.volumes["l1"].read_image()
