"""Commands of napari's menus: each opens the panel and presses one of its buttons."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_crln.gui.widgets.panel import CrlnPanel

PLUGIN = "napari-crln"
WIDGET = "CRLN: train and segment"


def open_panel() -> CrlnPanel:
    """Open the panel in the current viewer, or show the one that is open.

    Raises
    ------
    UsageError
        If there is no viewer with a window.
    """
    import napari

    from napari_crln.errors import UsageError

    viewer = napari.current_viewer()
    if viewer is None or getattr(viewer, "window", None) is None:
        raise UsageError("no viewer", "the panel is docked in a napari window", "Open napari first", "CRLN")
    dock, panel = viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)
    dock.show()
    dock.raise_()
    return panel  # type: ignore[no-any-return]


def show_panel() -> None:
    """Open the panel."""
    open_panel()


def open_project() -> None:
    """Ask for a project folder, and open it in the panel."""
    open_panel().project.open_project()


def new_project() -> None:
    """Make a project of the open layers, as the panel's button does."""
    open_panel().project.new_project.begin()


def watch_run() -> None:
    """Ask for a run folder, and watch it in the panel."""
    open_panel().project.watch_run()
