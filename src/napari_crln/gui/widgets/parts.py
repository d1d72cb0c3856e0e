"""What the sections share: collapsibles, buttons that say why they are disabled, plain text helpers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QIcon, QPixmap
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget
from superqt import QCollapsible

MARGIN = 4
_HEADING = """
QPushButton, QPushButton:checked { text-align: left; font-weight: bold; background: transparent; border: none;
    border-bottom: 1px solid rgba(128, 128, 128, 90); padding: 5px 2px; }
QPushButton:hover, QPushButton:focus { background: rgba(128, 128, 128, 45); }
"""


class Section(QWidget):
    """Content of one section: widgets from top to bottom."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = QVBoxLayout(self)
        self.rows.setContentsMargins(MARGIN, MARGIN, MARGIN, 2 * MARGIN)
        self.rows.setSpacing(6)

    def add_row(self, *widgets: QWidget, stretch: int | None = None) -> QHBoxLayout:
        """Widgets beside one another; `stretch` is the one that takes the room."""
        row = QHBoxLayout()
        row.setSpacing(6)
        for index, widget in enumerate(widgets):
            row.addWidget(widget, 1 if stretch is None or stretch == index else 0)
        self.rows.addLayout(row)
        return row

    def add_form(self, fields: dict[str, QWidget]) -> None:
        """Widgets under one another, each behind its label; Tab goes from one to the next."""
        grid = QGridLayout()
        grid.setSpacing(6)
        grid.setColumnStretch(1, 1)
        for row, (name, widget) in enumerate(fields.items()):
            label = QLabel(name)
            label.setBuddy(widget)
            label.setToolTip(widget.toolTip())
            grid.addWidget(label, row, 0)
            grid.addWidget(widget, row, 1)
        self.rows.addLayout(grid)


class Button(QPushButton):
    """A button that, while disabled, says why in its tooltip.

    Parameters
    ----------
    tip : what it does
    """

    def __init__(self, text: str, tip: str, clicked: Callable[[], object]) -> None:
        super().__init__(text)
        self._tip = tip
        self.setToolTip(tip)
        self.setAutoDefault(False)
        self.clicked.connect(lambda: clicked())  # noqa: PLW0108 - without the signal's argument

    def hinder(self, reason: str) -> None:
        """Disable it for a reason; enable it if there is none."""
        self.setEnabled(not reason)
        self.setToolTip(f"{self._tip}\nNot now: {reason}" if reason else self._tip)


class Hint(QLabel):
    """A small line of text that wraps, and takes no room while it is empty."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setWordWrap(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.say("")

    def say(self, text: str, colour: str = "") -> None:
        """Show a text; a colour where it warns."""
        if text != self.text():
            self.setText(text)
        self.setStyleSheet(f"color: {colour};" if colour else "")
        self.setVisible(bool(text))


def collapsible(title: str, content: QWidget, *, opened: bool = True) -> Any:
    """A section under a heading that folds it away."""
    blank = QPixmap(1, 1)  # a null icon will not do: PySide6 has it false, and superqt takes none for granted
    blank.fill(Qt.GlobalColor.transparent)
    widget = QCollapsible(title, expandedIcon=QIcon(blank), collapsedIcon=QIcon(blank))
    widget.setObjectName(f"section {title}")
    widget.layout().setSpacing(0)
    widget.content().layout().setContentsMargins(0, 0, 0, 0)
    widget.addWidget(content)
    widget.setDuration(0)  # no animation: the panel scrolls, and resizes while training
    heading = widget.toggleButton()
    heading.setStyleSheet(_HEADING)
    heading.setToolTip(f"Show or hide the section {title}.")
    widget.toggled.connect(lambda on: widget.setText(f"{'▾' if on else '▸'}  {title}"))
    widget.setText(f"▸  {title}")
    if opened:
        widget.expand(animate=False)
    return widget


def elided(text: str, most: int = 42) -> str:
    """The end of a long path."""
    return text if len(text) <= most else f"…{text[-(most - 1) :]}"


def clock(seconds: float | None) -> str:
    """h:mm:ss or m:ss; a dash if unknown."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
