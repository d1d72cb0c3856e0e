"""The lines under Live layers and Annotate next say what is so, and the manual quotes them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from napari_crln.gui import told
from napari_crln.gui.model import LiveChoice, ProjectView, Snapshot, VolumeRow
from napari_crln.gui.run_view import Preview, Progress, RunView

ROOT = Path(__file__).resolve().parents[3]
ROWS = (VolumeRow("a", "labelled", (4, 4, 4)), VolumeRow("t", "test", (4, 4, 4)))
NOW = Snapshot(
    project=ProjectView(Path("p.crln"), "p", (), ROWS),
    shown="a",
    run=RunView(folder=Path("run"), state="training", progress=Progress(step=230, iterations=500)),
)
OF_B = (Preview(1, "b", 200),)


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (replace(NOW, live=LiveChoice(budget=0)), told.OFF),
        (replace(NOW, run=replace(NOW.run, state="starting", progress=Progress())), told.SOON),
        (replace(NOW, run=replace(NOW.run, previews=OF_B)), "The maps of a are being made."),
        (replace(NOW, shown="t"), "No maps of t: it is a test volume, which training never opens."),
        (replace(NOW, run=replace(NOW.run, state="finished")), "No maps of a: this run is not being trained, and has left none."),
        (replace(NOW, run=replace(NOW.run, previews=(Preview(2, "a", 7),))), "Newest maps, of iteration 7."),
        (replace(NOW, run=RunView()), ""),
    ],
)  # fmt: skip
def test_the_line_of_the_maps_says_what_is_so(now: Snapshot, says: str) -> None:
    assert told.of_maps(now) == says


def test_suggestions_share_the_time_for_maps_and_say_when_there_is_none() -> None:
    assert "soon" in told.of_suggestions(NOW)
    assert told.of_suggestions(replace(NOW, live=LiveChoice(budget=0))) == told.OFF


def test_the_manual_quotes_what_the_panel_says() -> None:
    page = (ROOT / "docs/how-to/live-layers.md").read_text("utf-8").partition("## When they do not come")[2]
    quoted = set(re.findall(r"\*([A-Z][^*]+\.)\*", page))
    source = (ROOT / "src/napari_crln/gui/told.py").read_text("utf-8")
    assert len(quoted) >= 4
    for text in quoted:
        assert text.replace("phantom_003", "{now.shown}") in source
