"""Export from the panel: predictions as NIfTI files on the source grids, as `napari-crln export` writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from napari_crln.errors import CrlnError
from napari_crln.gui import obstacles
from napari_crln.gui.background import Background
from napari_crln.gui.model import ExportView, PanelModel
from napari_crln.volume.project import Project


class Exporter:
    """Writes files in the background, one at a time; each appears whole or not at all."""

    def __init__(self, model: PanelModel, background: Background) -> None:
        self._model = model
        self._background = background
        self._let_go: Callable[[], None] | None = None

    def export(self, folder: Path, names: tuple[str, ...] = ()) -> None:
        """Write the predictions of volumes (none named: all that have one); files that exist are refused."""
        now = self._model.snapshot
        if (reason := obstacles.to_export(now)) or now.project is None:
            return self._model.say(reason, "warning")
        self._model.update(export=ExportView(running=True))
        self._let_go = self._background.stream(
            partial(_written, now.project.path, folder, names),
            self._on_progress,
            partial(self._ended, folder),
            self._failed,
        )
        return None

    def cancel(self) -> None:
        """End after the file that is being written."""
        view = self._model.snapshot.export
        if self._let_go is not None and view.running:
            self._let_go()
            self._close()
            self._model.say("Export cancelled: files that were done stay.", "warning")

    def _on_progress(self, view: ExportView) -> None:
        self._model.update(export=view)

    def _ended(self, folder: Path) -> None:
        count = self._model.snapshot.export.total
        self._close()
        self._model.say(f"{count} files written to {folder}.")

    def _failed(self, error: Exception) -> None:
        self._close()
        text = str(error) if isinstance(error, CrlnError) else f"{type(error).__name__}: {error}"
        self._model.say(text, "error")

    def _close(self) -> None:
        self._let_go = None
        self._model.update(export=ExportView())


def _written(project: Path, folder: Path, names: tuple[str, ...]) -> Iterator[ExportView | None]:
    """Plan, then write file by file."""
    from napari_crln.volume.export import plan_export, write_export  # NiBabel: not to open the panel

    yield None
    planned = plan_export(Project.open(project), folder, "prediction", names)
    for done, each in enumerate(planned):
        yield ExportView(True, done, len(planned), each.volume.name)
        write_export(each)
    yield ExportView(True, len(planned), len(planned), "")
