"""How the panel looks and is reached: narrow docks, folded sections, both themes, and keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtWidgets import QAbstractButton, QComboBox, QLabel, QScrollArea, QTabBar, QWidget
from superqt import QCollapsible

from napari_crln.events import Stepped
from napari_crln.gui.model import Message
from napari_crln.gui.widgets.parts import Button, level_colours

pytestmark = pytest.mark.gui

LONG = (
    "Maps of iteration 6, which the run has meanwhile removed; they stay in the viewer until you move on. "
    * 2
)


@pytest.fixture
def opened(panel: Any, sample: Path, wait: Callable[..., None]) -> Any:
    panel.session.presenter.open_project(sample)
    wait(lambda: panel.session.volumes.shown)
    return panel


def test_nothing_is_clipped_in_the_narrowest_dock(opened: Any, qtbot: Any) -> None:
    scroll = opened.findChild(QScrollArea)
    opened.live.seen.say(LONG)
    width = scroll.widget().minimumSizeHint().width()
    scroll.setWidgetResizable(False)
    for _ in range(3):  # what wraps settles
        scroll.widget().resize(width, scroll.widget().layout().heightForWidth(width))
        qtbot.wait(50)
    room = opened.minimumSizeHint().width() - scroll.verticalScrollBar().sizeHint().width()
    assert room >= scroll.widget().minimumSizeHint().width()
    for widget in _seen(opened):
        assert widget.height() >= widget.minimumSizeHint().height(), widget
        assert widget.width() >= widget.minimumSizeHint().width() or isinstance(widget, QLabel), widget
    for section in (opened.project, opened.train, opened.live, opened.annotate, opened.predict):
        assert section.height() >= section.layout().heightForWidth(section.width()), (
            "text that wraps pushes, not squeezes"
        )


def _seen(panel: Any) -> list[QWidget]:
    kinds = (QAbstractButton, QComboBox, QLabel)
    found = [w for kind in kinds for w in panel.findChildren(kind) if w.isVisibleTo(panel)]
    return [w for w in found if not isinstance(w.parent(), QTabBar) and not w.objectName().startswith("qt_")]


def test_a_folded_section_is_out_of_the_way_and_comes_back_whole(opened: Any, qtbot: Any) -> None:
    section = opened.findChild(QCollapsible, "section Train")
    button, height = opened.train.train_button, opened.train.height()
    assert button.isVisibleTo(opened)
    section.toggleButton().click()
    assert not button.isVisibleTo(opened), "Tab would go through what is not seen"
    section.toggleButton().click()
    qtbot.waitUntil(lambda: opened.train.height() >= height)
    assert button.isVisibleTo(opened)


def test_another_theme_reaches_curves_and_warnings(opened: Any) -> None:
    viewer = opened.session.viewer
    plot = opened.curves.plots[0]
    colours = []
    for theme in ("light", "dark"):
        viewer.theme = theme
        colours.append(plot.backgroundBrush().color().lightness())
        assert opened.styleSheet() == level_colours(theme == "dark")
    light, dark = colours
    assert light > 200
    assert dark < 80
    opened.session.model.update(message=Message("It failed.", "error"))
    assert opened.status.property("level") == "error"


@pytest.mark.parametrize(("dark", "background"), [(True, "#262930"), (False, "#ebebeb")])
def test_warnings_can_be_read_on_either_background(dark: bool, background: str) -> None:
    colours = re.findall(r"#[0-9a-f]{6}", level_colours(dark))
    assert len(colours) == 2
    for colour in colours:
        high, low = sorted((_luminance(colour), _luminance(background)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour


def _luminance(colour: str) -> float:
    """As WCAG has it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_no_two_controls_and_no_menu_of_napari_share_a_key(panel: Any) -> None:
    """Alt and a letter that two of them have would press neither."""
    menus = panel.session.viewer.window._qt_window.menuBar().actions()
    texts = [w.text() for w in panel.findChildren(QAbstractButton)] + [menu.text() for menu in menus]
    keys = [key.lower() for text in texts for key in re.findall(r"&(\w)", text)]
    assert len(keys) > 20
    assert sorted(keys) == sorted(set(keys))


def test_resume_says_what_it_does(opened: Any) -> None:
    button: Button = opened.train.pause_button
    assert "checkpoint" in button.toolTip()
    opened.train.pause_button.offer("Res&ume", "Go on.")
    opened.train.pause_button.hinder("")
    assert (button.text(), button.toolTip()) == ("Res&ume", "Go on.")


def test_an_empty_plot_says_what_it_waits_for(panel: Any) -> None:
    panel.curves.tabs.setCurrentIndex(2)
    panel.curves.refresh()
    assert "validation" in panel.curves.legend.text()


def test_axes_begin_anew_with_another_run(panel: Any) -> None:
    """A diverged run's losses of 1e13 are nothing to measure the next one's by."""
    curves, plot = panel.session.model.curves, panel.curves.plots[0]
    panel.curves.tabs.setCurrentIndex(0)
    curves.add(_loss(1, 1.0))
    curves.add(_loss(2, 1.5e13))
    panel.curves.refresh()
    plot.setRange(yRange=(0, 1.5e13))  # as after zooming: no longer by itself
    panel.session.presenter.leave_run()
    panel.curves.refresh()
    assert plot.viewRange()[1][1] < 2
    curves.add(_loss(1, 3.0))
    curves.add(_loss(2, 5.0))
    panel.curves.refresh()
    plot.getViewBox().updateAutoRange()
    assert 4 < plot.viewRange()[1][1] < 7


def _loss(step: int, value: float) -> Stepped:
    return Stepped(step=step, interval=1, losses={"total": value}, learning_rate=0.1, rate=2.0)
