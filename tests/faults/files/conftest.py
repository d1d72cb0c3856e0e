"""A project in a playground; when a test is over, nothing outside has changed and no process is left."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playground import TABLE, Answer, Call, Playground, children, ids, save, voxels

from napari_crln import durable
from napari_crln.cli import main
from napari_crln.errors import ProjectError
from napari_crln.volume.imports import import_nifti
from napari_crln.volume.project import Project


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to a shared disk is most of the time of these tests, and no test here pulls the plug."""
    monkeypatch.setattr(durable, "sync", lambda path: None)


@pytest.fixture(autouse=True)
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Playground]:
    """Folders of their own for home, temporary files and the current folder, all of which stay as they are."""
    folders = {name: tmp_path / name for name in ("inside", "outside", "home", "tmp", "cwd")}
    for folder in folders.values():
        folder.mkdir()
    (folders["outside"] / "secret.txt").write_text("nobody's business")
    ground = Playground(
        folders["inside"], folders["outside"], (folders["home"], folders["tmp"], folders["cwd"])
    )
    monkeypatch.setenv("HOME", str(folders["home"]))
    monkeypatch.setenv("TMPDIR", str(folders["tmp"]))
    monkeypatch.setenv(
        "TORCHINDUCTOR_CACHE_DIR", str(folders["inside"] / "torch")
    )  # torch makes it at a first step
    monkeypatch.setattr(tempfile, "tempdir", str(folders["tmp"]))
    monkeypatch.chdir(folders["cwd"])
    before, running = ground.touched(), children()
    yield ground
    assert {p.name for p in tmp_path.iterdir()} == set(folders)
    assert ground.touched() == before, "something outside the project was changed"
    assert children() == running, "a process was left"
    _inspected(ground)


def _inspected(ground: Playground) -> None:
    """`napari-crln inspect` finds project and runs sound, or, where a test leaves damage, finds it."""
    if ground.project_path.exists():
        expected = ProjectError.exit_code if ground.damaged else 0
        assert main(["inspect", str(ground.project_path), "--verify", "--json"]) == expected
        folders = sorted((ground.project_path / "runs").glob("*-*"))
        assert [main(["inspect", str(folder), "--json"]) for folder in folders] == [0] * len(folders)


@pytest.fixture
def leaves_damage(ground: Playground) -> None:
    """For tests that leave a damaged project."""
    ground.damaged = True


@pytest.fixture
def outside(ground: Playground) -> Path:
    return ground.outside


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process."""

    def _call(*arguments: object) -> Answer:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return _call


@pytest.fixture
def project(ground: Playground) -> Project:
    """Two labelled volumes l1, l2, two unlabelled ones u1, u2, and v for validation; l1 has a prediction."""
    made = Project.create(ground.project_path, TABLE)
    label = save(ground.inside / "files" / "label.nii", ids())
    for seed, (name, role) in enumerate(
        [
            ("l1", "labelled"),
            ("l2", "labelled"),
            ("u1", "unlabelled"),
            ("u2", "unlabelled"),
            ("v", "validation"),
        ]
    ):
        image = save(ground.inside / "files" / f"{name}.nii.gz", voxels(seed))
        import_nifti(made, image, None if role == "unlabelled" else label, role, name=name)  # type: ignore[arg-type]
    volume = made.volumes["l1"]
    volume.write_prediction((volume.read_annotation() - 1).astype(np.uint8), {"run": "r"})
    return made


@pytest.fixture
def empty(ground: Playground) -> Project:
    """A project without volumes."""
    return Project.create(ground.project_path, TABLE)


@pytest.fixture
def sound(call: Call) -> Callable[[Project], None]:
    """Assert that `inspect` finds every byte of a project sound."""

    def _sound(project: Project) -> None:
        answer = call("inspect", project.path, "--verify", "--json")
        assert answer.code == 0, answer.err

    return _sound
