"""Write docs/reference/panel.md from the panel's own widgets: each control, and what its tooltip says.

Usage: xvfb-run python docs/make_panel_reference.py    (a test of the panel fails where the page is out of date)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QListWidget,
    QTableWidget,
    QWidget,
)

PAGE = Path(__file__).resolve().parent / "reference" / "panel.md"
HEAD = """# The panel

`Plugins › CRLN: train and segment` opens it. Sections stand in the order of the work and fold by a click on their title. Every control can be
reached with the Tab key, and Alt with an underlined letter presses its button. The line at the bottom is the last message; the line in a
section says why a button is disabled, as does the button's tooltip after *Not now:*.

The tables are made from the panel itself, by `docs/make_panel_reference.py`. The [tutorial](../tutorial.md) walks through it.
"""
SECTIONS = {
    "project": (
        "Project",
        "Open or make a project, choose the volume that is shown, and say what each volume is for.",
    ),
    "train": (
        "Train",
        "Training runs in a process of its own: napari stays fluid, and an error there closes no window.",
    ),
    "live": (
        "Live layers",
        "What the network believes while it trains: [each layer with a picture](../how-to/live-layers.md).",
    ),
    "annotate": (
        "Annotate",
        "Labels of the shown volume, saved while you paint and taken in by the run: [how it works](../how-to/labelling-with-suggestions.md).",
    ),
    "suggest": (
        "Annotate next",
        "The slices whose labels would teach most: [labelling with suggestions](../how-to/labelling-with-suggestions.md).",
    ),
    "predict": (
        "Predict",
        "Segment volumes with the watched run, take what is right as annotation, and export.",
    ),
}
CURVES = """
## Curves

Three tabs, drawn as the run reports: **Losses**, the terms as they enter the total, means since the last report; **μ, agreement**, μ (1: clues no
longer count) and the shares of voxels that rectification changed, that are confident and that agree with it; **Dice**, on the
volumes of role *validation*, a class each and their mean. Drag moves, the wheel zooms, *A* at the lower left shows all again.
"""
_CONTROLS = (
    QAbstractButton,
    QComboBox,
    QAbstractSpinBox,
    QLineEdit,
    QAbstractSlider,
    QTableWidget,
    QListWidget,
)


def page(panel: Any) -> str:
    """The whole page, of a panel."""
    parts = [HEAD]
    for name, (title, lead) in SECTIONS.items():
        rows = (
            [f"| {label} | {tip} |" for label, tip in controls(getattr(panel, name))]
            if hasattr(panel, name)
            else []
        )
        parts.append(
            "\n".join(["", f"## {title}", "", lead, "", "| control | what it does |", "|---|---|", *rows, ""])
        )
        if name == "train":
            parts.append(CURVES)
    return "".join(parts)


def controls(section: QWidget) -> Iterator[tuple[str, str]]:
    """Name and tooltip of each control of a section, in the order of its widgets."""
    for widget in section.findChildren(QWidget):
        tip = widget.toolTip().partition("\n")[0]
        if isinstance(widget, _CONTROLS) and tip and not isinstance(widget.parent(), _CONTROLS):
            yield _name(widget), tip.replace("|", "\\|")


def _name(widget: Any) -> str:
    if isinstance(widget, QAbstractButton):
        return f"**{widget.text().replace('&', '')}**"
    if isinstance(widget, QTableWidget | QListWidget):
        return "the table" if isinstance(widget, QTableWidget) else "the list"
    return _label(widget)


def _label(widget: QWidget) -> str:
    """Text of the label before it in its parent's layout."""
    labels = [w for w in widget.parent().findChildren(QLabel) if w.buddy() is widget]
    if labels:
        return labels[0].text().replace("&", "")
    before = ""
    for sibling in widget.parent().children():
        if sibling is widget:
            break
        if type(sibling) is QLabel and sibling.text():
            before = sibling.text()
    return before or widget.objectName()


def main() -> None:
    """Write the page."""
    import napari

    from napari_crln.gui.widgets.panel import CrlnPanel

    viewer = napari.Viewer(show=False)
    panel = CrlnPanel(viewer)
    PAGE.write_text(page(panel), "utf-8")
    panel.close()
    viewer.close()


if __name__ == "__main__":
    main()
