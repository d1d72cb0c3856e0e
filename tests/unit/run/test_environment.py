from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from napari_crln.run.environment import environment, git_revision


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "__init__.py").write_text("")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def test_the_revision_of_a_checkout_and_whether_it_was_changed(checkout: Path) -> None:
    head = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    revision = subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()
    assert git_revision(checkout) == revision
    (checkout / "__init__.py").write_text("changed = True")
    assert git_revision(checkout) == f"{revision}-dirty"


def test_an_installation_inside_someone_elses_checkout_has_no_revision(checkout: Path) -> None:
    installed = checkout / "site-packages" / "napari_crln"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert git_revision(installed) is None


def test_without_git_there_is_no_revision(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_revision(checkout) is None
    assert environment()["git"] is None
