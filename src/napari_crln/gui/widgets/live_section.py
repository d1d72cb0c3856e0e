"""Live layers: which maps, of which class, how often, at what cost; and past ones."""

from __future__ import annotations

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QGridLayout, QSpinBox
from superqt import QLabeledSlider

from napari_crln.gui import told
from napari_crln.gui.live_maps import BY_KEY, LIVE_MAPS
from napari_crln.gui.model import Snapshot
from napari_crln.gui.presenter import Presenter
from napari_crln.gui.widgets.parts import Hint, Section

_COLUMNS = 2
_NEEDS_CLUES = ("rectified", "changed", "similarity", "clues", "anchors")


class LiveSection(Section):
    """The fourth section."""

    def __init__(self, presenter: Presenter) -> None:
        super().__init__()
        self._presenter = presenter
        self._generations: tuple[int, ...] = ()
        self.ticks = {each.key: self._tick(each.key) for each in LIVE_MAPS}
        self.classes = QComboBox()
        self.classes.setToolTip("Class whose similarity and clues are shown.")
        self.classes.currentIndexChanged.connect(self._class_chosen)
        self.prototype = QSpinBox()
        self.prototype.setSpecialValueText("all: the largest")
        self.prototype.setRange(0, 0)
        self.prototype.setKeyboardTracking(False)
        self.prototype.valueChanged.connect(self._prototype_chosen)
        self.contour = QCheckBox("rectified as outline")
        self.contour.setToolTip(
            "Show the layer 'crln: rectified' as outlines, 1 voxel wide, not filled (in 2D)."
        )
        self.contour.toggled.connect(lambda on: presenter.set_live(contour=on))
        self.every = QDoubleSpinBox()
        self.every.setRange(0.1, 60.0)
        self.every.setSingleStep(0.1)
        self.every.setSuffix(" s")
        self.every.setToolTip("Shortest time between two updates of the layers, seconds.")
        self.every.valueChanged.connect(lambda value: presenter.set_live(every_s=float(value)))
        self.budget = QLabeledSlider(Qt.Orientation.Horizontal)
        self.budget.setRange(0, 50)
        self.budget.setToolTip(
            "Share of training time that computing the maps may take, %. 0: none are made."
        )
        self.budget.sliderReleased.connect(self._budget_chosen)
        self.budget.valueChanged.connect(self._budget_moved)
        self.history = QLabeledSlider(Qt.Orientation.Horizontal)
        self.history.setToolTip("Past maps of this volume; the right end follows the newest.")
        self.history.valueChanged.connect(self._history_moved)
        self.seen = Hint("seen")
        self.missing = Hint("missing")
        self._lay_out()

    def draw(self, now: Snapshot, old: Snapshot | None) -> None:
        """Show a snapshot."""
        if old is None or now.live != old.live or now.run != old.run:
            self._draw_choice(now)
            self._draw_prototype(now)
        if old is None or now.project != old.project:
            self._draw_classes(now)
        if (
            old is None
            or now.run != old.run
            or now.shown != old.shown
            or now.live != old.live
            or now.project != old.project
        ):
            self._draw_history(now)

    def _tick(self, key: str) -> QCheckBox:
        box = QCheckBox(BY_KEY[key].title)
        box.setToolTip(BY_KEY[key].tip)
        box.toggled.connect(lambda on: self._ticked(key, on))
        return box

    def _ticked(self, key: str, on: bool) -> None:
        """A layer that was painted on becomes the user's: the warning that it is not updated has had its day."""
        edited = key in self._presenter.model.snapshot.live.edited
        self._presenter.tick_map(key, on)
        if edited:
            self._presenter.model.say(
                f"'{BY_KEY[key].layer_name}', which you painted on, stays as your own layer."
            )

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setSpacing(4)
        for index, box in enumerate(self.ticks.values()):
            grid.addWidget(box, index // _COLUMNS, index % _COLUMNS)
        self.rows.addLayout(grid)
        self.rows.addWidget(self.missing)
        self.rows.addWidget(self.contour)
        self.add_form(
            {
                "Class": self.classes,
                "Prototype": self.prototype,
                "Update every": self.every,
                "Time for maps, %": self.budget,
                "History": self.history,
            }
        )
        self.rows.addWidget(self.seen)

    def _draw_choice(self, now: Snapshot) -> None:
        reason = _without_clues(now)
        self.missing.say(reason)
        for key, box in self.ticks.items():
            with QSignalBlocker(box):
                box.setChecked(key in now.live.shown)
            missing = bool(reason) and key in _NEEDS_CLUES
            box.setEnabled(not missing)
            why = f"\nNot now: {reason}" if missing else ""
            edited = "\nYou changed it: it is not updated." if key in now.live.edited else ""
            box.setToolTip(BY_KEY[key].tip + why + edited)
        self.contour.setEnabled(not reason)
        with QSignalBlocker(self.every), QSignalBlocker(self.budget), QSignalBlocker(self.contour):
            self.contour.setChecked(now.live.contour)
            self.every.setValue(now.live.every_s)
            self.budget.setValue(round(100 * now.live.budget))

    def _draw_prototype(self, now: Snapshot) -> None:
        reason = _without_clues(now)
        if not reason and not now.run.active:
            reason = "Maps are computed while a run trains or is paused, and past ones stay as they are."
        with QSignalBlocker(self.prototype):
            self.prototype.setRange(0, max(now.run.prototypes, now.live.prototype))
            self.prototype.setValue(now.live.prototype)
        self.prototype.setEnabled(not reason)
        tip = "Prototype of each class to which similarity is shown, or all: the largest of their scores."
        self.prototype.setToolTip(f"{tip}\nNot now: {reason}" if reason else tip)

    def _draw_classes(self, now: Snapshot) -> None:
        names = [] if now.project is None else [each.name for each in now.project.classes]
        with QSignalBlocker(self.classes):
            self.classes.clear()
            self.classes.addItems(names)
            if now.live.class_index < len(names):
                self.classes.setCurrentIndex(now.live.class_index)
        self.classes.setEnabled(bool(names))

    def _draw_history(self, now: Snapshot) -> None:
        own = [p for p in now.run.previews if p.volume == now.shown]
        self._generations = tuple(p.generation for p in own)
        newest = max(len(own) - 1, 0)
        chosen = now.live.generation
        at = self._generations.index(chosen) if chosen in self._generations else newest
        with QSignalBlocker(self.history):
            self.history.setRange(0, newest)
            self.history.setValue(at)
        self.history.setEnabled(newest > 0)
        self.seen.say(told.of_maps(now))

    def _class_chosen(self, index: int) -> None:
        if index >= 0:
            self._presenter.set_live(class_index=index)

    def _prototype_chosen(self, value: int) -> None:
        self._presenter.set_prototype(value)

    def _history_moved(self, value: int) -> None:
        if not 0 <= value < len(self._generations):
            return
        newest = value == len(self._generations) - 1
        self._presenter.set_live(generation=None if newest else self._generations[value])

    def _budget_moved(self, _value: int) -> None:
        if not self.budget.isSliderDown():  # by keyboard or wheel: there is no release
            self._budget_chosen()

    def _budget_chosen(self) -> None:
        self._presenter.set_budget(self.budget.value() / 100)


def _without_clues(now: Snapshot) -> str:
    """Why some maps cannot be shown; empty if they can."""
    method = now.run.method
    if not method or method == "crln":
        return ""
    names = ", ".join(BY_KEY[key].title for key in _NEEDS_CLUES)
    return f"The method {method} has no clues, so there is no {names}."
