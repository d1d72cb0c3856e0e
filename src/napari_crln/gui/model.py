"""The panel's state, without Qt and without napari: one frozen snapshot, and a signal when it changes.

Views draw a snapshot; only the presenter makes new ones. Why a button is disabled is a sentence that the snapshot
itself can tell (`obstacles.py`), so that the button and its explanation cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from psygnal import Signal

from napari_crln.gui.curves import Curves
from napari_crln.gui.live_maps import DEFAULT_SHOWN
from napari_crln.gui.run_view import RunView
from napari_crln.gui.training_form import TrainingForm
from napari_crln.suggestions import Suggestions
from napari_crln.types import Coverage, Role, ShapeDHW
from napari_crln.volume.accept import Kept
from napari_crln.volume.labels import LabelClass


@dataclass(frozen=True)
class VolumeRow:
    """One volume in the table.

    Parameters
    ----------
    coverage, revision : of its annotation; None and 0 without one
    restorable : revisions of the annotation that can be had back, newest first; 0 is none at all
    kept : what is known of those that the history has
    fault : why it cannot be read; "" where it can
    """

    name: str
    role: Role
    shape: ShapeDHW
    coverage: Coverage | None = None
    predicted: bool = False
    revision: int = 0
    restorable: tuple[int, ...] = ()
    kept: tuple[Kept, ...] = ()
    fault: str = ""


@dataclass(frozen=True)
class ProjectView:
    """An open project; `runs` are the names of its runs, oldest first, `preset` what its new runs begin with."""

    path: Path
    name: str
    classes: tuple[LabelClass, ...]
    volumes: tuple[VolumeRow, ...]
    runs: tuple[str, ...] = ()
    preset: str | None = None

    @property
    def readable(self) -> tuple[VolumeRow, ...]:
        """The volumes that are not damaged."""
        return tuple(row for row in self.volumes if not row.fault)

    @property
    def predicted(self) -> bool:
        """Whether any volume has a prediction."""
        return any(row.predicted for row in self.volumes)

    def row(self, name: str) -> VolumeRow | None:
        """The volume of that name."""
        return next((row for row in self.volumes if row.name == name), None)


@dataclass(frozen=True)
class LiveChoice:
    """What the user wants to see live.

    Parameters
    ----------
    shown : keys of the ticked maps
    class_index : whose similarity and clues
    prototype : to which similarity is shown, from 1; 0: the largest of the class's
    contour : whether `rectified` is outlined
    every_s : shortest time between two updates, s
    budget : share of training time that previews may take, 0-0.5
    generation : None follows the newest
    edited : maps that the user painted on, which are left alone
    """

    shown: frozenset[str] = DEFAULT_SHOWN
    class_index: int = 1
    prototype: int = 0
    contour: bool = False
    every_s: float = 0.5
    budget: float = 0.05
    generation: int | None = None
    edited: frozenset[str] = frozenset()


@dataclass(frozen=True)
class AnnotationView:
    """The annotation of the shown volume.

    Parameters
    ----------
    on : whether annotation layers are shown, also where nothing is annotated yet
    correcting : whether a slice that is painted on begins as the pseudo-label
    volume : whose; "" if none
    revision : that is saved; 0 if none
    error : why it cannot be saved
    begun : what the slice that was corrected last began as
    """

    on: bool = True
    correcting: bool = False
    volume: str = ""
    revision: int = 0
    saving: Literal["none", "pending", "saved"] = "none"
    error: str = ""
    begun: str = ""


@dataclass(frozen=True)
class PredictionView:
    """A prediction that is being computed; `total` is 0 while it starts."""

    running: bool = False
    stopping: bool = False
    done: int = 0
    total: int = 0
    name: str = ""


@dataclass(frozen=True)
class PredictionChoice:
    """How to predict.

    Parameters
    ----------
    clues : from logits and clues, or from the logits alone
    checkpoint : the newest one, or the one that did best on validation
    """

    clues: bool = True
    checkpoint: Literal["last", "best"] = "last"


@dataclass(frozen=True)
class ExportView:
    """Files that are being written; `total` is 0 while the export is planned."""

    running: bool = False
    done: int = 0
    total: int = 0
    name: str = ""


@dataclass(frozen=True)
class Message:
    """The status line."""

    text: str = ""
    level: Literal["info", "warning", "error"] = "info"


@dataclass(frozen=True)
class Snapshot:
    """All that the panel shows, save for curves and pictures.

    Parameters
    ----------
    busy : what is being done to the project in the background; "" if nothing
    shown : name of the volume in the viewer
    suggestions : of the watched run; None if it has none
    suggesting : whether a process looks for some
    """

    project: ProjectView | None = None
    busy: str = ""
    shown: str = ""
    form: TrainingForm = field(default_factory=TrainingForm)
    run: RunView = field(default_factory=RunView)
    live: LiveChoice = LiveChoice()
    annotation: AnnotationView = AnnotationView()
    prediction: PredictionView = PredictionView()
    suggestions: Suggestions | None = None
    suggesting: bool = False
    predicting: PredictionChoice = PredictionChoice()
    export: ExportView = ExportView()
    message: Message = Message()
    keep_running: bool = True

    @property
    def shown_row(self) -> VolumeRow | None:
        """The volume in the viewer."""
        return None if self.project is None else self.project.row(self.shown)


class PanelModel:
    """Holds the snapshot and the curves; `changed(new, old)` is emitted when they differ.

    What a listener changes itself is told after all have heard of the change before it, so that each hears of every
    change once, in order, and what is drawn last is the newest. It may not count on being heard before `update` returns.
    """

    changed = Signal(Snapshot, Snapshot, reemission="queued")

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.curves = Curves()

    def update(self, **changes: Any) -> None:
        """Replace fields of the snapshot."""
        old = self.snapshot
        self.snapshot = replace(old, **changes)
        if self.snapshot != old:
            self.changed.emit(self.snapshot, old)

    def say(self, text: str, level: Literal["info", "warning", "error"] = "info") -> None:
        """Set the status line."""
        self.update(message=Message(text, level))
