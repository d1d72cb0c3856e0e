"""The napari manifest: valid, in step with the package, and found by the installed distribution."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata, resources, util
from pathlib import Path

import pytest
from npe2 import PluginManager, PluginManifest
from npe2.manifest.contributions import MenuCommand

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


@pytest.fixture
def manager(manifest: PluginManifest) -> Iterator[PluginManager]:
    manager = PluginManager()
    manager.register(manifest)
    manager.activate(NAME)
    yield manager
    manager.deactivate(NAME)


def test_every_contribution_uses_a_declared_command_and_every_command_is_used(
    manifest: PluginManifest,
) -> None:
    parts = manifest.contributions
    kinds = (parts.readers, parts.writers, parts.sample_data, parts.widgets)
    used = {contribution.command for kind in kinds for contribution in kind or []}
    used |= {
        item.command for items in parts.menus.values() for item in items if isinstance(item, MenuCommand)
    }
    assert used == {c.id for c in parts.commands or []}


def test_every_command_can_be_imported_and_called(manager: PluginManager, manifest: PluginManifest) -> None:
    for command in manifest.contributions.commands or []:
        assert callable(manager.commands.get(command.id))


def test_sample_data_comes_out_of_its_command(manager: PluginManager) -> None:
    layers = manager.commands.execute("napari-crln.phantoms")
    assert {kind for *_, kind in layers} == {"image", "labels"}


@pytest.mark.parametrize(
    ("path", "reads"), [("a/b.nii", True), ("a/B.NII.gz", True), ("b.gz", False), ("b.tif", False)]
)
def test_reader_is_offered_for_nifti_only(manager: PluginManager, path: str, reads: bool) -> None:
    assert bool(list(manager.iter_compatible_readers([path]))) is reads


@pytest.mark.parametrize(
    ("path", "types", "command"),
    [
        ("a.nii.gz", ["image"], "write_nifti_image"),
        ("a.NII", ["labels"], "write_nifti_labels"),
        ("a.ome.zarr", ["image"], "write_ome_zarr"),
        ("a.zarr", ["image", "labels", "labels"], "write_ome_zarr"),
        ("a.zarr", ["labels"], "write_ome_zarr_labels"),
        ("a.nii.gz", ["image", "labels"], None),
        ("a.zarr", ["points"], None),
    ],
)
def test_writer_is_found_by_ending_and_layers(
    manager: PluginManager, path: str, types: list[str], command: str | None
) -> None:
    writer, _ = manager.get_writer(path, types, NAME)
    assert (writer and writer.command) == (command and f"{NAME}.{command}")


def test_project_reader_is_offered_for_folders(manager: PluginManager, tmp_path: Path) -> None:
    readers = list(manager.iter_compatible_readers([str(tmp_path)]))
    assert [reader.command for reader in readers] == [f"{NAME}.read_project"]


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
