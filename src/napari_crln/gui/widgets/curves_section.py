"""Curves: losses, μ and agreement, validation Dice. Drawn at most a few times a second, and only when seen."""

from __future__ import annotations

from collections.abc import Mapping

import pyqtgraph as pg
from qtpy.QtWidgets import QTabWidget

from napari_crln.gui.curves import Curves, Series
from napari_crln.gui.widgets.parts import Section

_COLOURS = ("#e8e8e8", "#4ea8de", "#f4a259", "#7bc950", "#e56399", "#b388eb", "#f0e442")
_ON_LIGHT = ("#303030", "#0072b2", "#d55e00", "#2b8a3e", "#c2255c", "#6741d9", "#997404")
_HEIGHT = 190


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
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        colours, ink = (_COLOURS, "#b0b0b0") if dark else (_ON_LIGHT, "#505050")
        self.plots = [
            _Plot("loss (no unit)", background, ink, colours),
            _Plot("share, 0 to 1", background, ink, colours),
            _Plot("Dice, 0 to 1", background, ink, colours),
        ]
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
        self.rows.addWidget(self.tabs)

    def refresh(self) -> None:
        """Draw the visible plot if there is anything new."""
        index = self.tabs.currentIndex()
        state = (index, self._curves.revision)
        if state == self._drawn or not self.tabs.isVisible():
            return
        self._drawn = state
        measures = {n: s for n, s in self._curves.measures.items() if n != "gradient_norm"}
        groups = (self._curves.losses, measures, self._curves.dice)
        self.plots[index].draw(groups[index])


class _Plot(pg.PlotWidget):
    """Lines by name."""

    def __init__(self, unit: str, background: str, ink: str, colours: tuple[str, ...]) -> None:
        super().__init__(background=background)
        self.setMinimumHeight(_HEIGHT)
        self._colours, self._ink = colours, ink
        self._lines: dict[str, pg.PlotDataItem] = {}
        item = self.getPlotItem()
        item.setLabel("bottom", "iteration", color=ink)
        item.setLabel("left", unit, color=ink)
        for side in ("left", "bottom"):
            axis = item.getAxis(side)
            axis.enableAutoSIPrefix(False)
            axis.setPen(ink)
            axis.setTextPen(ink)
        item.setDownsampling(auto=True, mode="peak")
        item.setClipToView(True)
        item.showGrid(x=False, y=True, alpha=0.15)

    def draw(self, series: Mapping[str, Series]) -> None:
        """Show these, and no others."""
        for name in [name for name in self._lines if name not in series]:
            self.removeItem(self._lines.pop(name))
        for name, points in series.items():
            if name not in self._lines:
                pen = pg.mkPen(
                    self._colour(len(self._lines)), width=1
                )  # a wider one is ten times as slow to draw
                self._lines[name] = self.plot(pen=pen, autoDownsampleFactor=1.0)
            self._lines[name].setData(points.steps, points.values, symbol="o" if len(points) == 1 else None)
        names = (
            f'<span style="color:{self._colour(i)}">■</span> {_text(n)}' for i, n in enumerate(self._lines)
        )
        self.getPlotItem().setTitle("&nbsp; ".join(names), size="8pt", color=self._ink)

    def _colour(self, index: int) -> str:
        return self._colours[index % len(self._colours)]


def _text(name: str) -> str:
    return "μ" if name == "mu" else name.replace("_", " ")
