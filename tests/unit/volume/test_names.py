"""Names of volumes: files on every system, and no two that a system takes for one."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_crln.errors import ProjectError, UsageError
from napari_crln.volume.export import nifti_files
from napari_crln.volume.geometry import Grid
from napari_crln.volume.names import check_name, numbered, plain_name, same_file
from napari_crln.volume.project import Project
from napari_crln.volume.source import Source

GRID = Grid.from_spacing((6, 7, 8))
COMPOSED, DECOMPOSED = (normalize(form, "한국 1") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    "name", ["CON", "aux", "nul", "com1", "LPT9", "nul.x", "Con.tar-1", "COM¹", "prn .a"]
)
def test_names_that_windows_keeps_are_refused(name: str, project: Project, image: NDArray[np.uint8]) -> None:
    with pytest.raises(ProjectError, match="Windows keeps such names for devices"):
        project.add(name, image, GRID, "unlabelled")


@pytest.mark.parametrize("name", ["console", "auxiliary", "com10", "com", "a.con", "con_1", "null"])
def test_names_that_only_look_so_are_taken(name: str) -> None:
    assert check_name(name) == name


def test_a_name_is_as_long_as_its_bytes(project: Project, image: NDArray[np.uint8]) -> None:
    assert project.add("脳" * 66, image, GRID, "unlabelled").read_image().shape == GRID.shape
    with pytest.raises(ProjectError, match="of 300 bytes; a name takes at most 200 bytes"):
        project.add("脳" * 100, image, GRID, "unlabelled")


@pytest.mark.parametrize(("first", "second"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED), ("Á", "á")])
def test_spellings_of_one_name_are_one_name(
    first: str, second: str, project: Project, image: NDArray[np.uint8]
) -> None:
    project.add(first, image, GRID, "unlabelled")
    with pytest.raises(ProjectError, match="exists"):
        project.add(second, image, GRID, "unlabelled")


def test_projects_with_such_names_still_open(project: Project) -> None:
    names = ["con", "nul.x", "脳" * 100, COMPOSED, DECOMPOSED]
    rows = "".join(f"\n[[volumes]]\nname = {name!r}\nrole = 'test'\n" for name in names)
    manifest = project.path / "project.toml"
    manifest.write_text(manifest.read_text("utf-8").replace("volumes = []\n", "") + rows, "utf-8")
    assert list(Project.open(project.path).volumes) == names


@pytest.mark.parametrize(
    ("one", "other"), [("Scan.nii.gz", "scan.nii.gz"), (f"{COMPOSED}.nii", f"{DECOMPOSED}.nii")]
)
def test_results_that_would_overwrite_one_another_are_refused(
    one: str, other: str, project: Project, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    made = Source.made_up("a", GRID, image.dtype)
    for name, file in (("a", one), ("b", other)):
        source = made.model_copy(update={"name": file})
        project.add(name, image, GRID, "unlabelled", source=source)
    with pytest.raises(UsageError, match="two volumes came from files of this name"):
        nifti_files(list(project.volumes.values()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@given(
    st.text(max_size=250) | st.sampled_from(["con", "CON =", "nul.gz", "脳" * 99, "aux." + "é" * 99]),
    st.integers(2, 10**6),
)
def test_a_plain_name_is_a_name_whatever_it_is_made_of(text: str, number: int) -> None:
    plain = plain_name(text)
    assert check_name(plain) == plain
    following = numbered(plain, number)
    assert check_name(following) == following
    assert following.endswith(f"-{number}")
    assert same_file(following) != same_file(plain)
