from __future__ import annotations

from pathlib import Path

import pytest

from napari_crln import config
from napari_crln.errors import ProjectError
from napari_crln.volume import manifest
from napari_crln.volume.project import Project
from napari_crln.volume.sample import PRESET, make_sample_project

SHAPE = (16, 16, 16)


def test_the_sample_has_few_labels_and_names_its_preset(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    path = make_sample_project(
        tmp_path / "s.crln", SHAPE, ("labelled", "unlabelled", "test"), tell=lambda *a: told.append(a)
    )
    project = Project.open(path)
    assert [v.has_annotation for v in project.volumes.values()] == [True, False, True]
    assert told[-1] == (3, 3, "test")
    assert project.preset == PRESET in config.presets()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "s.crln").mkdir()
    with pytest.raises(ProjectError, match="exists"):
        make_sample_project(tmp_path / "s.crln", SHAPE, ("labelled",))


def test_a_project_without_a_preset_has_none(tmp_path: Path) -> None:
    path = make_sample_project(tmp_path / "s.crln", SHAPE, ("labelled",))
    text = (path / manifest.FILE).read_text("utf-8")
    (path / manifest.FILE).write_text(text.replace(f'preset = "{PRESET}"\n', ""), "utf-8")
    project = Project.open(path)
    assert project.preset is None
    project.set_role("phantom_000", "test")
    assert Project.open(path).preset is None
