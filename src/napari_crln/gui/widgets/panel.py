"""The dock widget: sections in the order of work, and a status line that stays in sight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtWidgets import QApplication, QFrame, QScrollArea, QVBoxLayout, QWidget

from napari_crln.gui.model import Snapshot
from napari_crln.gui.session import Session
from napari_crln.gui.widgets.annotate_section import AnnotateSection
from napari_crln.gui.widgets.curves_section import CurvesSection
from napari_crln.gui.widgets.live_section import LiveSection
from napari_crln.gui.widgets.new_project import NewProject
from napari_crln.gui.widgets.parts import MARGIN, Hint, collapsible, level_colours
from napari_crln.gui.widgets.predict_section import PredictSection
from napari_crln.gui.widgets.project_section import ProjectSection
from napari_crln.gui.widgets.suggest_section import SuggestSection
from napari_crln.gui.widgets.train_section import TrainSection

if TYPE_CHECKING:
    import napari

_CURVES_EVERY_S = 0.25
_WIDTH = 330


class CrlnPanel(QWidget):
    """Train a segmentation, watch it learn, predict.

    Parameters
    ----------
    viewer : napari's; the panel's layers go there
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        self._docked = False
        super().__init__()
        self.setObjectName("crln-panel")
        self.session = session = Session(viewer)
        self._viewer = viewer
        self.project = ProjectSection(session, NewProject(self, session))
        self.train = TrainSection(session.presenter)
        self.curves = CurvesSection(session.model.curves, *_theme(viewer))
        self.live = LiveSection(session.presenter)
        self.annotate = AnnotateSection(
            session.annotator,
            lambda: session.ready_to_paint(session.model.snapshot.shown),
            session.complete_slice,
        )
        self.suggest = SuggestSection(session.suggestions, session.go_to, session.suggester.suggest)
        self.predict = PredictSection(session)
        self.status = Hint("status")
        self.status.setToolTip("The last message.")
        self._lay_out()
        self._dress()
        viewer.events.theme.connect(self._dress)
        viewer.dims.events.ndisplay.connect(self._turned)
        self._draw(session.model.snapshot, None)
        session.model.changed.connect(self._draw)
        session.bridge.every(_CURVES_EVERY_S, self.curves.refresh)
        # Whichever comes first; none of them goes by way of self, which may be gone by then.
        self.destroyed.connect(session.close)
        QApplication.instance().aboutToQuit.connect(session.close)

    def event(self, event: Any) -> bool:
        """Taken out of its dock (napari does so when a dock's x is clicked), the panel ends."""
        if event.type() == QEvent.Type.ParentChange:
            docked, self._docked = self._docked, self.parent() is not None
            if docked and not self._docked:
                self._end()
        return bool(super().event(event))

    def closeEvent(self, event: Any) -> None:
        """End threads with the widget."""
        self._end()
        super().closeEvent(event)

    def _end(self) -> None:
        self._viewer.events.theme.disconnect(self._dress)
        self._viewer.dims.events.ndisplay.disconnect(self._turned)
        self.session.model.changed.disconnect(self._draw, missing_ok=True)
        self.suggest.let_go()
        self.session.close()
        self.deleteLater()

    def _lay_out(self) -> None:
        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)
        column.setSpacing(2)
        for title, section in {
            "Project": self.project,
            "Train": self.train,
            "Curves": self.curves,
            "Live layers": self.live,
            "Annotate": self.annotate,
            "Annotate next": self.suggest,
            "Predict": self.predict,
        }.items():
            column.addWidget(collapsible(title, section))
        column.addStretch(1)
        scroll = _Column()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(content)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(scroll, 1)
        self.status.setContentsMargins(2 * MARGIN, MARGIN, MARGIN, MARGIN)
        layout.addWidget(self.status)
        self.setMinimumWidth(_WIDTH)

    def _dress(self, _event: Any = None) -> None:
        """Colours of napari's theme, for what napari's own style sheet does not reach."""
        background, dark = _theme(self._viewer)
        self.setStyleSheet(level_colours(dark))
        self.curves.dress(background, dark)

    def _turned(self, _event: Any = None) -> None:
        """In 2D again, what was refused in 3D is refused no more."""
        message = self.session.model.snapshot.message
        if self._viewer.dims.ndisplay == 2 and message.level == "warning" and "3D" in message.text:
            self.session.model.say("")

    def _draw(self, now: Snapshot, old: Snapshot | None) -> None:
        for section in (self.project, self.train, self.live, self.annotate, self.suggest, self.predict):
            section.draw(now, old)
        self.status.say(now.message.text, now.message.level)


class _Column(QScrollArea):
    """Scrolls up and down only, so it is never narrower than what it holds, beside its scroll bar."""

    def minimumSizeHint(self) -> QSize:
        """The width of the content."""
        hint = super().minimumSizeHint()
        bar = self.verticalScrollBar().sizeHint().width()
        return QSize(self.widget().minimumSizeHint().width() + bar, hint.height())

    def eventFilter(self, watched: Any, event: Any) -> bool:
        """What it holds asks for another size."""
        if event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().eventFilter(watched, event))


def _theme(viewer: Any) -> tuple[str, bool]:
    """Background colour of napari's theme, and whether it is dark."""
    from napari.utils.theme import get_theme

    theme = get_theme(viewer.theme)
    red, green, blue = theme.background.as_rgb_tuple()[:3]  # napari 0.6's colours cannot tell all six digits
    return f"#{red:02x}{green:02x}{blue:02x}", theme.id != "light"
