from __future__ import annotations

import base64
import re
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from command_line import Call

from napari_crln.cli import demo
from napari_crln.volume import sample
from napari_crln.volume.phantom import make_phantom
from napari_crln.volume.project import Project

SHAPE = (16, 20, 24)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cohort and a network of seconds."""
    roles = (*("labelled",) * 2, *("unlabelled",) * 2, *("test",) * 3)
    monkeypatch.setattr(
        sample, "make_sample_project", partial(sample.make_sample_project, shape=SHAPE, roles=roles)
    )
    preset = {"network": {"base_filters": 2}, "batches": {"patch": [16, 16, 16]}, "engine": {"log_every": 1}}
    monkeypatch.setattr("napari_crln.config.load_preset", lambda _: preset)


@pytest.mark.usefixtures("small")
def test_demo_trains_both_and_reports_what_it_measured(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    answer = call("demo", "--headless", "--out", out, "--iterations", 3, "--threads", 1, "--json")
    assert (answer.code, answer.err) == (0, "")
    document = answer.json()
    assert list(document["methods"]) == ["supervised", "crln"]
    project = Project.open(out / "phantoms.crln")
    held_out = project.with_role("test")
    assert len(held_out) == 3
    assert not any(volume.has_annotation for volume in project.with_role("unlabelled"))
    # The reported Dice is that of the stored predictions against the phantoms themselves.
    dice = []
    for index, volume in enumerate(held_out, start=4):
        truth, found = make_phantom((0, index), SHAPE)[1], volume.read_prediction()
        sizes = [
            ((truth == k).sum() + (found == k).sum(), ((truth == k) & (found == k)).sum()) for k in (1, 2, 3)
        ]
        dice.append(np.mean([2 * both / total for total, both in sizes]))
    assert document["methods"]["crln"]["dice"] == pytest.approx(np.mean(dice))
    page = (out / "index.html").read_text("utf-8")
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == 3
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    assert "http://" not in page
    assert "https://" not in page
    assert f"<td>{document['methods']['crln']['dice'] * 100:.1f}</td>" in page


@pytest.mark.usefixtures("small")
def test_an_earlier_demo_is_moved_aside_and_a_strangers_folder_refused(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    (out / "phantoms.crln").mkdir(parents=True)
    (out / "phantoms.crln" / "note").write_text("earlier", "utf-8")
    (tmp_path / "demo-1").mkdir()
    arguments = ("demo", "--headless", "--out", out, "--iterations", 1, "--threads", 1)
    answer = call(*arguments)
    assert answer.code == 0
    assert (tmp_path / "demo-2" / "phantoms.crln" / "note").read_text("utf-8") == "earlier"
    assert all(method in answer.out for method in ("supervised", "crln", str(out / "index.html")))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x", "utf-8")
    assert call("demo", "--headless", "--out", mine).code == 2
    assert [p.name for p in mine.iterdir()] == ["thesis.tex"]


def test_an_earlier_demo_in_the_current_folder_is_moved_aside_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    (out / "phantoms.crln").mkdir(parents=True)
    (out / "index.html").write_text("earlier", "utf-8")
    monkeypatch.chdir(out)
    demo._make_room(Path())
    assert list(Path.cwd().iterdir()) == list(out.iterdir()) == []
    assert sorted(p.name for p in (tmp_path / "demo-1").iterdir()) == ["index.html", "phantoms.crln"]


@pytest.mark.usefixtures("small")
def test_with_a_display_the_demo_trains_in_napari(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def run(command: list[str], check: bool) -> subprocess.CompletedProcess[bytes]:
        started.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(demo, "_has_display", lambda: True)
    monkeypatch.setattr(demo, "find_spec", lambda name: object())
    monkeypatch.setattr(demo.subprocess, "run", run)
    out = tmp_path / "demo"
    answer = call("demo", "--out", out)
    assert answer.code == 0, answer.err
    assert started == [[sys.executable, "-P", "-m", demo.WINDOW, str(out / "phantoms.crln"), "--train"]]
    assert find_spec(demo.WINDOW) is not None
    assert Project.open(out / "phantoms.crln").with_role("labelled")


@pytest.mark.usefixtures("small")
def test_without_napari_the_demo_says_so_and_writes_the_report(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_has_display", lambda: True)
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    answer = call("demo", "--out", tmp_path / "demo", "--iterations", 2, "--threads", 1)
    assert answer.code == 0, answer.err
    assert "napari is not installed" in answer.err
    assert (tmp_path / "demo" / "index.html").exists()
