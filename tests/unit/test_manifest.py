"""The napari manifest: valid, in step with the package, and found by the installed distribution."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata, resources, util
from pathlib import Path

import pytest
from npe2 import PluginManifest

NAME = "napari-crln"


def _installed() -> bool:
    try:
        metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.fixture(scope="module")
def manifest() -> PluginManifest:
    return PluginManifest.from_file(Path(str(resources.files("napari_crln") / "napari.yaml")))


def test_name_is_the_distributions(manifest: PluginManifest) -> None:
    assert manifest.name == NAME


def test_every_command_names_something_callable(manifest: PluginManifest) -> None:
    manifest.validate_imports()
    commands = manifest.contributions.commands or []
    assert commands
    for command in commands:
        assert callable(command.exec) or command.python_name


def test_every_contribution_uses_a_declared_command(manifest: PluginManifest) -> None:
    parts = manifest.contributions
    used = {c.command for c in [*(parts.readers or []), *(parts.sample_data or []), *(parts.widgets or [])]}
    assert used == {c.id for c in parts.commands or []}


@pytest.mark.parametrize(("path", "reads"), [("a/b.nii", True), ("a/b.nii.gz", True), ("b.gz", False), ("b.tif", False)])
def test_reader_is_offered_for_nifti_only(manifest: PluginManifest, path: str, reads: bool) -> None:
    offered = any(r.matches_path(path) for r in manifest.contributions.readers or [])
    assert offered is reads


@pytest.mark.skipif(not _installed(), reason="the package is not installed here: tox installs it")
def test_installed_distribution_validates() -> None:
    assert util.find_spec("napari_crln") is not None
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "npe2", "validate", "--imports", NAME],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert PluginManifest.from_distribution(NAME).name == NAME
