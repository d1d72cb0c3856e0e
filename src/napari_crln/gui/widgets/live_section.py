"""Live layers: which maps, of which class, how often, at what cost; and past ones."""

from __future__ import annotations

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QGridLayout
from superqt import QLabeledSlider

from napari_crln.gui.live_maps import BY_KEY, LIVE_MAPS
from napari_crln.gui.model import Snapshot
from napari_crln.gui.presenter import Presenter
from napari_crln.gui.widgets.parts import Hint, Section

_COLUMNS = 2
_NEEDS_CLUES = ("rectified", "changed", "similarity", "clues")


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
        self._lay_out()

    def draw(self, now: Snapshot, old: Snapshot | None) -> None:
        """Show a snapshot."""
        if old is None or now.live != old.live or now.run.method != old.run.method:
            self._draw_choice(now)
        if old is None or now.project != old.project:
            self._draw_classes(now)
        if (
            old is None
            or now.run.previews != old.run.previews
            or now.shown != old.shown
            or now.live != old.live
        ):
            self._draw_history(now)

    def _tick(self, key: str) -> QCheckBox:
        box = QCheckBox(BY_KEY[key].title)
        box.setToolTip(BY_KEY[key].tip)
        box.toggled.connect(lambda on: self._presenter.tick_map(key, on))
        return box

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setSpacing(4)
        for index, box in enumerate(self.ticks.values()):
            grid.addWidget(box, index // _COLUMNS, index % _COLUMNS)
        self.rows.addLayout(grid)
        self.add_form(
            {
                "Class": self.classes,
                "Update every": self.every,
                "Time for maps, %": self.budget,
                "History": self.history,
            }
        )
        self.rows.addWidget(self.seen)

    def _draw_choice(self, now: Snapshot) -> None:
        plain = bool(now.run.method) and now.run.method != "crln"
        for key, box in self.ticks.items():
            with QSignalBlocker(box):
                box.setChecked(key in now.live.shown)
            missing = plain and key in _NEEDS_CLUES
            box.setEnabled(not missing)
            reason = f"\nThe method {now.run.method} makes no such map." if missing else ""
            edited = "\nYou painted on it: it is not updated." if key in now.live.edited else ""
            box.setToolTip(BY_KEY[key].tip + reason + edited)
        with QSignalBlocker(self.every), QSignalBlocker(self.budget):
            self.every.setValue(now.live.every_s)
            self.budget.setValue(round(100 * now.live.budget))

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
        if not own:
            waiting = now.run.active and now.live.budget > 0
            self.seen.say("The first maps come soon after training has started." if waiting else "")
        elif chosen is None:
            self.seen.say(f"Newest maps, of iteration {own[-1].step}.")
        else:
            self.seen.say(f"Maps of iteration {own[at].step}. The right end follows the newest.")

    def _class_chosen(self, index: int) -> None:
        if index >= 0:
            self._presenter.set_live(class_index=index)

    def _history_moved(self, value: int) -> None:
        newest = value >= len(self._generations) - 1
        self._presenter.set_live(generation=None if newest else self._generations[value])

    def _budget_moved(self, _value: int) -> None:
        if not self.budget.isSliderDown():  # by keyboard or wheel: there is no release
            self._budget_chosen()

    def _budget_chosen(self) -> None:
        self._presenter.set_budget(self.budget.value() / 100)
