"""Putting off the drawing of napari's canvas by one turn of the event loop.

Any change of a layer makes napari draw the canvas anew: less than a millisecond on a GPU, 30 and more in software. Qt would do
so right after the change, before any other event has its turn: put off, neither pause is as long as both.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QMainWindow, QWidget


class Canvas:
    """The canvas of the window that a widget is docked in, or floats above.

    Parameters
    ----------
    widget : gives the widget; where it is in no window, or deleted, nothing is put off
    """

    def __init__(self, widget: Callable[[], QWidget | None]) -> None:
        self._widget = widget
        self._held: Any = None

    def put_off(self) -> None:
        """Draw nothing before events that wait (a click, a key) have had their turn."""
        if self._held is None:
            centre = self._centre()
            if centre is not None and centre.updatesEnabled():  # else somebody holds it, and will let go
                self._held = centre
                centre.setUpdatesEnabled(False)
                QTimer.singleShot(0, partial(Canvas._release, self))  # a bound method would be held weakly

    def _release(self) -> None:
        held, self._held = self._held, None
        with suppress(RuntimeError):  # Qt has deleted it
            held.setUpdatesEnabled(True)

    def _centre(self) -> QWidget | None:
        with suppress(RuntimeError):  # Qt has deleted it
            widget = self._widget()
            while widget is not None and not isinstance(widget, QMainWindow):
                widget = widget.parentWidget()
            return None if widget is None else widget.centralWidget()
        return None
