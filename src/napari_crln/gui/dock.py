"""What napari's plugin manager calls for the dock widget.

npe2 imports it to validate the manifest, also on servers without Qt, so it may not be the widget's class itself. And
napari passes the viewer by the signature of `__init__`, which a function has not. Hence a class that makes another.
"""

from __future__ import annotations

from typing import Any


class CrlnDock:
    """Calling it makes a `CrlnPanel`; Qt is imported no earlier.

    Parameters
    ----------
    napari_viewer : the viewer to dock in
    """

    def __new__(cls, napari_viewer: Any) -> Any:
        """The panel for a viewer."""
        from napari_crln.gui.widgets.panel import CrlnPanel

        return CrlnPanel(napari_viewer)

    def __init__(self, napari_viewer: Any) -> None:  # never called, only looked at
        raise NotImplementedError
