"""Export from the panel: predictions as NIfTI files on the source grids, as `napari-crln export` writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from napari_crln.errors import CrlnError, FilesExist
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

    def export(
        self,
        folder: Path,
        names: tuple[str, ...] = (),
        *,
        overwrite: bool = False,
        exist: Callable[[FilesExist], None] | None = None,
    ) -> None:
        """Write the predictions of volumes (none named: all that have one).

        Parameters
        ----------
        overwrite : write over files that exist; else they are refused
        exist : told of files that exist, if they are refused; none: the status line is
        """
        now = self._model.snapshot
        if (reason := obstacles.to_export(now)) or now.project is None:
            return self._model.say(reason, "warning")
        self._model.update(export=ExportView(running=True))
        self._let_go = self._background.stream(
            partial(_written, now.project.path, folder, names, overwrite),
            self._on_progress,
            partial(self._ended, folder),
            partial(self._failed, exist),
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
        self._model.say(f"{count} {'file' if count == 1 else 'files'} written to {folder}.")

    def _failed(self, exist: Callable[[FilesExist], None] | None, error: Exception) -> None:
        self._close()
        if exist is not None and isinstance(error, FilesExist):
            return exist(error)
        text = str(error) if isinstance(error, CrlnError) else f"{type(error).__name__}: {error}"
        return self._model.say(text, "error")

    def _close(self) -> None:
        self._let_go = None
        self._model.update(export=ExportView())


def _written(
    project: Path, folder: Path, names: tuple[str, ...], overwrite: bool
) -> Iterator[ExportView | None]:
    """Plan, then write file by file."""
    from napari_crln.volume.export import plan_export, write_export  # NiBabel: not to open the panel

    yield None
    planned = plan_export(Project.open(project), folder, "prediction", names, overwrite=overwrite)
    for done, each in enumerate(planned):
        yield ExportView(True, done, len(planned), each.volume.name)
        write_export(each, overwrite=overwrite)
    yield ExportView(True, len(planned), len(planned), "")
