"""What the sections share: collapsibles, buttons that say why they are disabled, plain text helpers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from qtpy.QtCore import Qt
from qtpy.QtGui import QIcon, QPixmap
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget
from superqt import QCollapsible

MARGIN = 4
Level = Literal["info", "warning", "error"]
_ANY_HEIGHT = (1 << 24) - 1  # Qt's QWIDGETSIZE_MAX
#: Text that warns, on napari's dark and light backgrounds: a contrast of at least 4.5 : 1 on either.
_LEVELS = {True: ("#e8a33d", "#ff6b6b"), False: ("#7a4a00", "#b3261e")}
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

    def offer(self, text: str, tip: str) -> None:
        """Do something else from now on."""
        self._tip = tip
        if text != self.text():
            self.setText(text)

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

    def say(self, text: str, level: Level = "info") -> None:
        """Show a text, in a colour where it warns (`level_colours`)."""
        if text != self.text():
            self.setText(text)
        if level != self.property("level"):
            self.setProperty("level", level)
            self.style().unpolish(self)
            self.style().polish(self)
        self.setVisible(bool(text))


def level_colours(dark: bool) -> str:
    """The style sheet that gives warnings their colours."""
    warning, error = _LEVELS[dark]
    return f'Hint[level="warning"] {{ color: {warning}; }} Hint[level="error"] {{ color: {error}; }}'


def collapsible(title: str, content: QWidget, *, opened: bool = True) -> Any:
    """A section under a heading that folds it away.

    superqt gives the content the height it would like at its own width, which clips text that wraps, and folds by
    a height of 0, which leaves hidden controls in the way of the Tab key: here it has the height it needs, or is hidden.
    """
    blank = QPixmap(1, 1)  # a null icon will not do: PySide6 has it false, and superqt takes none for granted
    blank.fill(Qt.GlobalColor.transparent)
    widget = QCollapsible(title, expandedIcon=QIcon(blank), collapsedIcon=QIcon(blank))
    widget.setObjectName(f"section {title}")
    widget.layout().setSpacing(0)
    widget.content().layout().setContentsMargins(0, 0, 0, 0)
    widget.content().layout().addWidget(content)
    widget.setDuration(0)  # no animation: the panel scrolls, and resizes while training
    heading = widget.toggleButton()
    heading.setStyleSheet(_HEADING)
    heading.setToolTip(f"Show or hide the section {title}.")

    def toggled(on: bool) -> None:
        widget.setText(f"{'▾' if on else '▸'}  {title}")
        widget.content().setMaximumHeight(_ANY_HEIGHT if on else 0)
        widget.content().setVisible(on)

    widget.toggled.connect(toggled)
    toggled(False)
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
