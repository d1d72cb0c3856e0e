"""A napari window with the panel on a project: what `napari-crln demo` starts, as a process of its own.

python -m napari_crln.gui.window PROJECT [--train]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_crln.gui.menu import DOCK


def main(arguments: Sequence[str] | None = None) -> None:
    """Open the window, and return when it is closed."""
    parser = argparse.ArgumentParser(prog="napari_crln.gui.window", description=__doc__)
    parser.add_argument("project", type=Path, help="project folder")
    parser.add_argument("--train", action="store_true", help="press Train as soon as the project is open")
    options = parser.parse_args(arguments)
    import napari

    open_window(napari.Viewer(), options.project, train=options.train)
    napari.run()


def open_window(viewer: Any, project: Path, *, train: bool) -> Any:
    """Dock the panel in a viewer and open the project in it; returns the panel.

    Parameters
    ----------
    train : start training as soon as the project is open; a run that is being trained already is watched instead
    """
    from napari_crln.gui.widgets.panel import CrlnPanel

    panel = CrlnPanel(viewer)
    viewer.window.add_dock_widget(panel, name=DOCK, area="right")
    presenter = panel.session.presenter

    def opened() -> None:
        if train and not panel.session.model.snapshot.run.active:
            presenter.start()

    presenter.create_project(lambda: project, f"opening {project.name}", opened)
    return panel


if __name__ == "__main__":
    main()
