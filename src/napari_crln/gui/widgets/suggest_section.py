"""Annotate next: the slices worth labelling, with pictures; a click goes there with the brush ready."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QSignalBlocker, QSize, Qt
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QListWidget, QListWidgetItem

from napari_crln.gui import obstacles, told
from napari_crln.gui.model import Snapshot
from napari_crln.gui.suggestions import PICTURE, Place, SuggestionFeed
from napari_crln.gui.widgets.parts import Button, Hint, Section
from napari_crln.suggestions import Suggestion, Suggestions, in_mm2

_HEIGHT = 4 * (PICTURE + 8)


class SuggestSection(Section):
    """Between the live layers and prediction.

    Parameters
    ----------
    feed : pictures, and when they have come
    go : takes the viewer to a slice
    suggest : asks for a list where no training keeps one
    """

    def __init__(
        self, feed: SuggestionFeed, go: Callable[[Place], None], suggest: Callable[[], None]
    ) -> None:
        super().__init__()
        self._feed, self._go = feed, go
        self.list = QListWidget()
        self.list.setToolTip("The slices that would teach most, best first: click one to go there and paint.")
        self.list.setIconSize(QSize(PICTURE, PICTURE))
        self.list.setWordWrap(True)
        self.list.setFixedHeight(_HEIGHT)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.list.itemClicked.connect(self._clicked)
        self.list.itemActivated.connect(self._clicked)
        self.button = Button(
            "Su&ggest", "Rank the slices of all volumes by the watched run's last checkpoint.", suggest
        )
        self.hint = Hint("suggestions")
        self.rows.addWidget(self.list)
        self.rows.addWidget(self.hint)
        self.add_row(self.button)
        feed.pictured.connect(self._pictured)

    def let_go(self) -> None:
        """Hear of no more pictures: the widget goes."""
        self._feed.pictured.disconnect(self._pictured, missing_ok=True)

    def draw(self, now: Snapshot, old: Snapshot | None) -> None:
        """Show a snapshot."""
        if old is None or now.suggestions != old.suggestions:
            self._fill(now.suggestions)
        self.button.hinder(obstacles.to_suggest(now))
        self.button.setVisible(not now.run.active)
        why = "" if now.run.active or now.suggesting else obstacles.to_suggest(now)
        self.hint.say(f"{told.of_suggestions(now)} {why}".strip())

    def _fill(self, found: Suggestions | None) -> None:
        """The new list; the slice that was chosen stays chosen, and nothing is visited."""
        chosen = _place(self.list.currentItem())
        with QSignalBlocker(self.list):
            self.list.clear()
            for item in () if found is None else found.items:
                self._add(item)
                if Place.of(item) == chosen:
                    self.list.setCurrentRow(self.list.count() - 1)
        self.list.setVisible(self.list.count() > 0)

    def _add(self, suggestion: Suggestion) -> None:
        place = Place.of(suggestion)
        title = f"{place.volume}  ·  slice {'zyx'[place.axis]} {place.index}  ·  {suggestion.score:.2g}"
        item = QListWidgetItem(f"{title}\n{suggestion.why}")
        item.setData(Qt.ItemDataRole.UserRole, place)
        item.setToolTip(f"{title}\n{_factors(suggestion)}\n{suggestion.why}")
        item.setSizeHint(QSize(0, PICTURE + 8))
        if place in self._feed.pictures:
            item.setIcon(_icon(self._feed.pictures[place]))
        self.list.addItem(item)

    def _pictured(self, place: Place) -> None:
        for row in range(self.list.count()):
            if _place(self.list.item(row)) == place:
                self.list.item(row).setIcon(_icon(self._feed.pictures[place]))

    def _clicked(self, item: Any) -> None:
        place = _place(item)
        if place is not None:
            self._go(place)


def _place(item: Any) -> Place | None:
    """The slice of a row."""
    return None if item is None else item.data(Qt.ItemDataRole.UserRole)


def _factors(suggestion: Suggestion) -> str:
    parts = [f"uncertain: {in_mm2(suggestion.uncertainty)}"]
    if suggestion.disagreement is not None:
        parts.append(f"disagreement: {suggestion.disagreement:.2f}")
    parts += [f"novelty: {suggestion.novelty:.2f}", f"stands for: {suggestion.stands_for} slices"]
    return "  ·  ".join(parts)


def _icon(picture: Any) -> QIcon:
    height, width = picture.shape
    image = QImage(picture.tobytes(), width, height, width, QImage.Format.Format_Grayscale8)
    return QIcon(QPixmap.fromImage(image))
