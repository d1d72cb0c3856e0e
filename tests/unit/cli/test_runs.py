from __future__ import annotations

from pathlib import Path

import pytest

from napari_crln.cli.runs import named_run
from napari_crln.config import RunConfig
from napari_crln.errors import RunError
from napari_crln.run.folder import RunFolder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "p.crln"
    path.mkdir()
    return path


def test_a_name_means_the_newest_run_that_was_given_it(project: Path) -> None:
    """Also where a number was added, as on the same day."""
    made = [RunFolder.create(project, RunConfig(), "t") for _ in range(3)]
    RunFolder.create(project, RunConfig(), "t-10")
    assert named_run(project, "t") == made[2]
    assert named_run(project, "t-2") == made[1]
    for run in made:
        assert named_run(project, run.name) == run
    with pytest.raises(RunError, match="no run 'x'"):
        named_run(project, "x")


def test_a_folders_whole_name_goes_before_a_name_that_was_given(project: Path) -> None:
    run = RunFolder.create(project, RunConfig(), "t")
    RunFolder.create(project, RunConfig(), run.name)
    assert named_run(project, run.name) == run
