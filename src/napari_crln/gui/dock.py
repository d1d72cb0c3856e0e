"""What napari's plugin manager calls for the dock widget.

npe2 imports it to validate the manifest, also on servers without Qt, so it may not be the widget's class itself; and
the *Plugins* menu takes nothing but a subclass of QWidget or a plain function, to which it passes no viewer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_crln.errors import UsageError

if TYPE_CHECKING:
    from napari_crln.gui.widgets.panel import CrlnPanel


def crln_panel() -> CrlnPanel:
    """A new panel for the current viewer; Qt is imported no earlier.

    Raises
    ------
    UsageError
        If there is no viewer.
    """
    import napari

    from napari_crln.gui.widgets.panel import CrlnPanel

    viewer = napari.current_viewer()
    if viewer is None:
        raise UsageError("no viewer", "the panel is docked in a napari window", "Open napari first", "CRLN")
    return CrlnPanel(viewer)
