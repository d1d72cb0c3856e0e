"""Commands of napari's menus: each opens the panel and presses one of its buttons.

napari takes commands of plugins in certain menus only: these are in *Layers › Segment › CRLN segmentation*, and in the
command palette. The panel is docked under the name that the *Plugins* menu gives it, so that there is one of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_crln.gui.widgets.panel import CrlnPanel

#: As napari's *Plugins* menu names the dock: the widget's name in `napari.yaml`, then the plugin's.
DOCK = "CRLN: train and segment (CRLN segmentation)"


def open_panel() -> CrlnPanel:
    """The panel of the current viewer, opened if it is not, and in sight; errors as of `crln_panel`."""
    import napari

    from napari_crln.gui.dock import crln_panel

    viewer = napari.current_viewer()
    panel: CrlnPanel | None = None if viewer is None else viewer.window.dock_widgets.get(DOCK)
    if panel is None:
        panel = crln_panel()
        viewer.window.add_dock_widget(panel, name=DOCK)
    dock = panel.parent()
    dock.show()
    dock.raise_()
    return panel


def open_project() -> None:
    """Ask for a project folder, and open it in the panel."""
    open_panel().project.open_project()


def new_project() -> None:
    """Make a project of the open layers, as the panel's button does."""
    open_panel().project.new_project.begin()


def watch_run() -> None:
    """Ask for a run folder, and watch it in the panel."""
    open_panel().project.watch_run()
