"""What the napari hub shows of the package, and PyPI: the metadata are complete and true to the manifest."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DESCRIPTION = ROOT / ".napari-hub" / "DESCRIPTION.md"


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    values: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return values


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / "napari.yaml").read_text("utf-8"))
    return values


def test_the_hub_finds_the_plugin(project: dict[str, Any], manifest: dict[str, Any]) -> None:
    assert "Framework :: napari" in project["classifiers"]
    assert project["entry-points"]["napari.manifest"] == {manifest["name"]: "napari_crln:napari.yaml"}
    assert project["name"] == manifest["name"]


def test_summary_and_readme_say_what_it_is(project: dict[str, Any]) -> None:
    assert 40 <= len(project["description"]) <= 140  # the hub cuts longer ones
    readme = (ROOT / project["readme"]).read_text("utf-8")
    assert readme.startswith(f"# {project['name']}\n")
    opening = readme.split("\n\n")[1].casefold()
    for word in ("segment", "3d", "napari", "label"):
        assert word in project["description"].casefold()
        assert word in opening
    for title in ("Try it", "Install", "In napari", "Cite", "Licence"):
        assert f"\n## {title}\n" in readme


def test_licence_python_and_authors_are_stated(project: dict[str, Any]) -> None:
    assert (project["license"], project["license-files"]) == ("BSD-3-Clause", ["LICENSE"])
    assert "BSD 3-Clause" in (ROOT / "LICENSE").read_text("utf-8").splitlines()[0]
    assert project["authors"]
    low, high = map(int, re.findall(r"3\.(\d+)", project["requires-python"]))
    stated = {f"Programming Language :: Python :: 3.{minor}" for minor in range(low, high)}
    assert stated <= set(project["classifiers"])
    assert f"Programming Language :: Python :: 3.{high}" not in project["classifiers"]


def test_urls_are_absolute(project: dict[str, Any]) -> None:
    assert project["urls"]
    assert all(url.startswith("https://") for url in project["urls"].values())


def test_the_description_tells_whom_it_is_for_how_to_install_and_what_it_does_not(
    project: dict[str, Any],
) -> None:
    text = DESCRIPTION.read_text("utf-8")
    titles = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert {"Who it is for", "What it does in napari", "What it does not", "Install", "Help"} <= set(titles)
    extra = re.search(rf'pip install "{project["name"]}\[(\w+)\]"', text)
    assert extra is not None
    assert extra[1] in project["optional-dependencies"]


def test_the_description_sends_nobody_to_a_tracker_that_has_no_address(project: dict[str, Any]) -> None:
    trackers = [
        url for name, url in project["urls"].items() if re.search("issue|bug|track", name, re.IGNORECASE)
    ]
    text = DESCRIPTION.read_text("utf-8")
    assert all(url in text for url in trackers)
    assert trackers or "the issue tracker of" not in text


def test_the_sdist_holds_what_tests_and_pages_lead_to() -> None:
    values = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packed = set(values["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"])
    assert {path.name for path in ROOT.glob("*.md")} <= packed
    assert {".ci", ".napari-hub", "tests", "docs", "tox.ini", "constraints.txt"} <= packed


def test_the_description_names_every_kind_of_contribution(manifest: dict[str, Any]) -> None:
    told = {"readers": "Opens", "writers": "Saves", "sample_data": "Sample data", "menus": "Layers › Segment",
            "widgets": manifest["contributions"]["widgets"][0]["display_name"]}  # fmt: skip
    text = DESCRIPTION.read_text("utf-8")
    missing = {kind for kind in told.keys() & manifest["contributions"].keys() if told[kind] not in text}
    assert not missing
