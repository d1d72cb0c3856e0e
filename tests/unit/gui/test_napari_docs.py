"""What the pages about layers promise: their code runs, and the hub's numbers are the sample's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from napari_crln import durable
from napari_crln.gui.sample_data import LABELLED, VOLUMES
from napari_crln.volume.accept import kept_revisions
from napari_crln.volume.geometry import Grid
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.project import Project

ROOT = Path(__file__).resolve().parents[3]
BLOCKS = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs/how-to/from-layers.md").read_text("utf-8"), re.DOTALL
)
HUB = ROOT / ".napari-hub" / "DESCRIPTION.md"
WORDS = {4: "four", 12: "twelve"}


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "sync", lambda path: None)
    monkeypatch.chdir(tmp_path)


@pytest.mark.gui
def test_the_script_of_the_how_to_makes_a_project(capsys: pytest.CaptureFixture[str]) -> None:
    viewer = pytest.importorskip("napari.components").ViewerModel()
    voxels = np.random.default_rng(0).random((12, 12, 12), np.float32)
    viewer.add_image(voxels, name="heart", scale=(2, 1, 1), units=("mm",) * 3)
    ids = np.zeros((12, 12, 12), np.uint8)
    ids[3:9, 3:9, 3:9] = 1
    viewer.add_labels(ids, name="heart mask", scale=(2, 1, 1), units=("mm",) * 3)
    exec(compile(BLOCKS[0], "how-to", "exec"), {"viewer": viewer})
    assert capsys.readouterr().out.startswith("dense")
    assert Project.open("heart.crln").volumes["heart"].grid.spacing == (2, 1, 1)


def test_the_script_that_accepts_predictions_runs() -> None:
    project = Project.create("heart.crln", ClassTable.from_ids({"background": 0, "heart": 1}))
    for name in ("scan_07", "scan_08"):
        image = np.arange(50 * 4 * 4, dtype=np.uint16).reshape(50, 4, 4)
        volume = project.add(name, image, Grid.from_spacing(image.shape), "unlabelled")
        volume.write_prediction((image % 2).astype(np.uint8))
    exec(compile(BLOCKS[1], "how-to", "exec"), {})
    found = Project.open("heart.crln").volumes
    assert {name: (v.role, v.coverage) for name, v in found.items()} == {
        "scan_07": ("unlabelled", "sparse"),
        "scan_08": ("labelled", "dense"),
    }
    assert kept_revisions(found["scan_07"]) == []


@pytest.mark.parametrize("page", [HUB, ROOT / "docs/reference/napari-files.md"])
def test_pages_tell_the_size_of_the_sample(page: Path) -> None:
    text = page.read_text("utf-8")
    assert f"{WORDS[VOLUMES]} synthetic volumes, {WORDS[LABELLED]} with labels" in text


def test_links_of_the_hub_description_are_absolute() -> None:
    """The hub shows the page outside the repository."""
    links = re.findall(r"\]\(([^)]+)\)", HUB.read_text("utf-8"))
    assert links
    assert all(link.startswith("https://") for link in links)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs/reference/napari-files.md"])
def test_pages_name_the_entry_of_the_sample_as_napari_does(page: Path) -> None:
    manifest = yaml.safe_load((ROOT / "napari.yaml").read_text("utf-8"))
    (sample,) = manifest["contributions"]["sample_data"]
    assert f"Open Sample › {sample['display_name']} (CRLN segmentation)" in page.read_text("utf-8")
