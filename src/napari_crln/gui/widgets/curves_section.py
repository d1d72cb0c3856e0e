"""Curves: losses, μ and agreement, validation Dice. Drawn at most a few times a second, and only when seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyqtgraph as pg
from qtpy.QtWidgets import QTabWidget

from napari_crln.gui.curves import Curves, Series
from napari_crln.gui.widgets.parts import Hint, Section

_COLOURS = ("#e8e8e8", "#4ea8de", "#f4a259", "#7bc950", "#e56399", "#b388eb", "#f0e442")
_ON_LIGHT = ("#303030", "#0072b2", "#d55e00", "#2b8a3e", "#c2255c", "#6741d9", "#997404")
#: Of axes and text, and of lines.
_DARK, _LIGHT = ("#b0b0b0", _COLOURS), ("#505050", _ON_LIGHT)
_HEIGHT = 190
_WAITING = (
    "The curves begin with the first report of a run.",
    "The curves begin with the first report of a run whose method has a teacher.",
    "Dice comes with the first validation: it takes volumes of the role validation.",
)


class CurvesSection(Section):
    """The third section.

    Parameters
    ----------
    dark : whether napari's theme is
    """

    def __init__(self, curves: Curves, background: str, dark: bool) -> None:
        super().__init__()
        self._curves = curves
        self._drawn: tuple[int, int] | None = None
        self._runs = curves.runs
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.plots = [_Plot("loss (no unit)"), _Plot("share, 0 to 1"), _Plot("Dice, 0 to 1")]
        for title, tip, plot in zip(
            ("Losses", "μ, agreement", "Dice"),
            ("Loss terms as they enter the total, means since the last report.",
             "μ (1: clues no longer count), share of voxels that rectification changed, that are confident, that agree.",
             "Dice on the validation volumes, a class each and their mean."),
            self.plots, strict=True,
        ):  # fmt: skip
            index = self.tabs.addTab(plot, title)
            self.tabs.setTabToolTip(index, tip)
        self.tabs.setFixedHeight(_HEIGHT + 30)
        self.tabs.currentChanged.connect(lambda _: self.refresh())
        self.legend = Hint("legend")
        self.legend.setToolTip("Which line is which, or why there is none.")
        self.rows.addWidget(self.tabs)
        self.rows.addWidget(self.legend)
        self.dress(background, dark)

    def dress(self, background: str, dark: bool) -> None:
        """Colours of napari's theme."""
        for plot in self.plots:
            plot.dress(background, *_DARK if dark else _LIGHT)
        self._drawn = None
        self.refresh()

    def refresh(self) -> None:
        """Draw the visible plot if there is anything new."""
        index = self.tabs.currentIndex()
        state = (index, self._curves.revision)
        if state == self._drawn or not self.tabs.isVisible():
            return
        self._drawn = state
        if self._runs != self._curves.runs:
            self._runs = self._curves.runs
            for plot in self.plots:
                plot.begin()
        measures = {n: s for n, s in self._curves.measures.items() if n != "gradient_norm"}
        groups = (self._curves.losses, measures, self._curves.dice)
        self.plots[index].draw(groups[index])
        self.legend.say(self.plots[index].legend or _WAITING[index])


class _Plot(pg.PlotWidget):
    """Lines by name."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.setMinimumHeight(_HEIGHT)
        self._unit = unit
        self._colours: tuple[str, ...] = ("",)
        self._lines: dict[str, pg.PlotDataItem] = {}
        item = self.getPlotItem()
        for side in ("left", "bottom"):
            item.getAxis(side).enableAutoSIPrefix(False)
        item.setDownsampling(auto=True, mode="peak")
        item.setClipToView(True)
        item.showGrid(x=False, y=True, alpha=0.15)

    def dress(self, background: str, ink: str, colours: tuple[str, ...]) -> None:
        """Colours of the background, of axes and text, and of the lines."""
        self._colours = colours
        self.setBackground(background)
        for side, text in (("bottom", "iteration"), ("left", self._unit)):
            self.getPlotItem().setLabel(side, text, color=ink)
            self.getPlotItem().getAxis(side).setPen(ink)
            self.getPlotItem().getAxis(side).setTextPen(ink)
        for index, line in enumerate(self._lines.values()):
            line.setPen(self._pen(index))

    def begin(self) -> None:
        """Nothing is drawn, and axes are as at first: another run's losses may be of another size."""
        self.draw({})
        self.setRange(xRange=(0, 1), yRange=(0, 1))
        self.enableAutoRange()

    def draw(self, series: Mapping[str, Series]) -> None:
        """Show these, and no others."""
        for name in [name for name in self._lines if name not in series]:
            self.removeItem(self._lines.pop(name))
        for name, points in series.items():
            if name not in self._lines:
                self._lines[name] = self.plot(pen=self._pen(len(self._lines)), autoDownsampleFactor=1.0)
            self._lines[name].setData(points.steps, points.values, symbol="o" if len(points) == 1 else None)

    @property
    def legend(self) -> str:
        """Names of the lines in their colours, as rich text that wraps; "" without lines."""
        return "&nbsp; ".join(
            f'<span style="color:{self._colour(index)}">■</span>&nbsp;{_text(name)}'
            for index, name in enumerate(self._lines)
        )

    def _pen(self, index: int) -> Any:
        return pg.mkPen(self._colour(index), width=1)  # a wider one is ten times as slow to draw

    def _colour(self, index: int) -> str:
        return self._colours[index % len(self._colours)]


def _text(name: str) -> str:
    return "μ" if name == "mu" else name.replace("_", "&nbsp;")
