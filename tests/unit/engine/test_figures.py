from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_crln.engine.figures import belief_figure, clue_figure, curve_figure, png, telling_planes
from napari_crln.engine.maps import BeliefMaps
from napari_crln.engine.report import Section, write_report
from napari_crln.events import Stepped

_COLOURS = {"background": "#000000", "organ": "#ff0000"}


def _maps(clues: bool = True) -> BeliefMaps:
    label = np.zeros((4, 6, 6), np.uint8)
    label[1:3, 2:4, 2:4] = 1
    floats = np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)
    return BeliefMaps(
        pseudo_label=np.zeros_like(label),
        rectified=label,
        changed=label > 0,
        uncertainty=np.abs(floats[0]) / 9,
        prediction=label,
        similarity=floats if clues else None,
        clues=floats if clues else None,
    )


def _image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (4, 6, 6), dtype=np.uint8)


def test_belief_figure_shows_each_map_of_each_plane() -> None:
    maps = _maps()
    figure = belief_figure(_image(), maps.prediction, maps, _COLOURS, [1, 2])
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [
        "image",
        "truth",
        "pseudo-label",
        "rectified",
        "changed",
        "uncertainty 1 − p",
        "prediction",
    ]
    grid = [axes for axes in figure.axes if axes.images]
    assert len(grid) >= 2 * 7
    changed = next(axes for axes in figure.axes if axes.get_title() == "changed").images[-1].get_array()
    np.testing.assert_array_equal(np.asarray(changed)[..., 3] > 0, maps.changed[1])
    rectified = np.asarray(
        next(a for a in figure.axes if a.get_title() == "rectified").images[-1].get_array()
    )
    assert (rectified[maps.rectified[1] == 1][:, :3] == (1, 0, 0)).all()  # the class's own colour
    assert (rectified[maps.rectified[1] == 0][:, 3] == 0).all()  # background is see-through
    assert png(figure).startswith(b"\x89PNG")


def test_without_a_truth_there_is_no_column_of_it() -> None:
    figure = belief_figure(_image(), None, _maps(), _COLOURS, [1])
    assert "truth" not in [axes.get_title() for axes in figure.axes]


def test_clue_figure_has_a_column_for_each_class_on_one_scale() -> None:
    figure = clue_figure(_image(), _maps(), _COLOURS, 1)
    assert figure is not None
    organ = [axes for axes in figure.axes if axes.get_title() == "organ"]
    assert len(organ) == 2
    low, high = organ[1].images[0].get_clim()
    assert low == -high  # signed: white is 0
    assert clue_figure(_image(), _maps(clues=False), _COLOURS, 1) is None


def test_curves_draw_what_each_run_reports() -> None:
    def _event(step: int, **measures: float) -> Stepped:
        losses = {"total": 2.0, "supervised": 1.0 / step}
        return Stepped(step=step, interval=1, losses=losses, measures=measures, learning_rate=0.1, rate=1)

    runs = {
        "crln": [_event(step, mu=0.1 * step, agreement=0.5, changed=0.1) for step in (1, 2, 3)],
        "supervised": [_event(step) for step in (1, 2, 3)],
    }
    losses, trust, agreement, changed = curve_figure(runs).axes
    assert [line.get_label() for line in losses.lines] == ["crln: supervised", "supervised: supervised"]
    (line,) = trust.lines
    np.testing.assert_allclose(line.get_xydata(), [(1, 0.1), (2, 0.2), (3, 0.3)])
    assert len(agreement.lines) == len(changed.lines) == 1


def test_planes_are_spread_over_the_foreground() -> None:
    labels = np.zeros((30, 4, 4), np.uint8)
    labels[6:24, 1, 1] = 1
    labels[9, 2, 2] = labels[15, 2, 2] = labels[22, 2, 2] = 2
    assert telling_planes(labels, 3) == [9, 15, 22]
    assert telling_planes(np.zeros((8, 2, 2), np.uint8), 3) == [4]


def test_text_in_a_report_is_escaped_and_the_page_stands_alone(tmp_path: Path) -> None:
    figure = curve_figure({"run": []})
    sections = [Section("A <b> & c", "text", [["h"], ["<script>"]], figure)]
    write_report(tmp_path / "r.html", "T & <i>", "lead", sections, "foot")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<title>T &amp; &lt;i&gt;</title>" in page
    assert "data:image/png;base64," in page
    assert page.count("<img alt=") == 1
    assert "src=http" not in page


@pytest.mark.parametrize("rows", [[], [["only", "header"]]])
def test_a_section_may_lack_anything(rows: list[list[str]], tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", "t", "l", [Section("h", rows=rows)])
    assert "<h2>h</h2>" in (tmp_path / "r.html").read_text("utf-8")
