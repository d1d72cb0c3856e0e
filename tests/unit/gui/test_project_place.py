from __future__ import annotations

from pathlib import Path

import pytest

from napari_crln.gui.project_place import free_folder, name_for, project_folder


@pytest.mark.parametrize(
    ("volumes", "name"),
    [
        (["phantom_000", "phantom_001", "phantom_010"], "phantom"),
        (["heart-1"], "heart"),
        (["left atrium 3", "left atrium 7"], "left atrium"),
        (["a", "b"], "project"),
        (["001", "002"], "project"),
        (["scan", "scanner"], "scan"),
    ],
)
def test_a_project_is_called_by_what_its_volumes_share(volumes: list[str], name: str) -> None:
    assert name_for(volumes) == name


def test_a_name_that_is_taken_is_numbered(tmp_path: Path) -> None:
    assert free_folder(tmp_path / "none", "heart") == tmp_path / "none" / "heart.crln"
    (tmp_path / "heart.crln").mkdir()
    (tmp_path / "heart-2.crln").write_text("")
    assert free_folder(tmp_path, "heart") == tmp_path / "heart-3.crln"


@pytest.mark.parametrize(
    ("chosen", "name"),
    [("phantoms v1.5", "phantoms v1.5.crln"), ("a.crln", "a.crln"), ("A.CRLN", "A.CRLN"), ("a", "a.crln")],
)
def test_a_dot_in_a_projects_name_cuts_nothing_off(chosen: str, name: str, tmp_path: Path) -> None:
    assert project_folder(str(tmp_path / chosen)) == tmp_path / name
