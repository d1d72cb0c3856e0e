"""Open project and run folders in napari.

A project may hold hundreds of volumes, and napari shows one picture. So two are opened: the first labelled volume
(else the first of all), shown, and the first unlabelled one, hidden. Every layer says in its metadata which project
and volume it is of: the panel opens that, and puts its own layers into their place (`opened_layers.py`).

A run opens as the volume of its newest preview, with the preview's maps, or as its project's volume if there are
none yet; the layers' metadata name the run, so that the panel can attach to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from napari_crln.errors import ProjectError
from napari_crln.events import CONFIG_FILE, ENVIRONMENT_FILE
from napari_crln.gui.layer_data import Layer
from napari_crln.gui.stored_layers import volume_layers
from napari_crln.volume import manifest
from napari_crln.volume.project import Project

PathOrPaths: TypeAlias = str | Sequence[str]
Reader: TypeAlias = Callable[[PathOrPaths], list[Layer]]


def get_reader(path: PathOrPaths) -> Reader | None:
    """The reader, for one project or run folder by what it holds; None leaves other folders to other plugins."""
    folder = _single(path)
    if folder is None:
        return None
    if (folder / manifest.FILE).is_file():
        return read_project
    if (folder / ENVIRONMENT_FILE).is_file() and (folder / CONFIG_FILE).is_file():
        return read_run
    return None


def read_project(path: PathOrPaths) -> list[Layer]:
    """Layers of the first labelled volume, and of the first unlabelled one, hidden.

    Raises
    ------
    ProjectError
        If the folder is no project, is damaged, or has no volume yet.
    """
    project = Project.open(_one(path))
    volumes = list(project.volumes.values())
    if not volumes:
        raise ProjectError(
            "no volume yet", "an empty project has nothing to show", "Import images into it", project.path
        )
    first = next(iter(project.with_role("labelled")), volumes[0])
    second = next((each for each in project.with_role("unlabelled") if each.name != first.name), None)
    hidden = [] if second is None else volume_layers(project, second, visible=False)
    return [*hidden, *volume_layers(project, first)]


def read_run(path: PathOrPaths) -> list[Layer]:
    """Layers of the volume that a run's newest preview shows, and the preview's maps.

    Raises
    ------
    RunError, ProjectError
        If the folder is no run, or not inside a project.
    """
    from napari_crln.gui.run_layers import run_layers

    return run_layers(_one(path))


def _single(path: PathOrPaths) -> Path | None:
    paths = [path] if isinstance(path, str) else list(path)
    return Path(paths[0]) if len(paths) == 1 and Path(paths[0]).is_dir() else None


def _one(path: PathOrPaths) -> Path:
    folder = _single(path)
    if folder is None:
        raise ProjectError("not one folder", "one project or run opens at a time", "Choose one", str(path))
    return folder
