"""Pictures of a report: what the network believes of a volume, and the curves of runs.

Drawn without pyplot, so that no window system, global figure list or thread is involved. Axial planes are
shown as seen from the feet: x to the right, y up. A class has the same colour wherever it occurs.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.engine.maps import BeliefMaps
from napari_crln.events import Stepped
from napari_crln.types import ImageDHW, LabelDHW

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_DASHES = ("-", "--", ":", "-.")
_CELL = 1.75  # inches


def belief_figure(
    image: ImageDHW,
    truth: LabelDHW | None,
    maps: BeliefMaps,
    colours: Mapping[str, str],
    planes: Sequence[int],
) -> Figure:
    """A row for each axial plane: image, truth, pseudo-label, rectified, changed, uncertainty, prediction.

    Parameters
    ----------
    colours : `#rrggbb` by class name, background first
    planes : indices along D
    """
    palette = list(colours.values())
    labels = {"teacher's pseudo-label": maps.pseudo_label, "rectified": maps.rectified}
    titles = ["image", "truth", *labels, "changed by rectification", "uncertainty 1 − p", "prediction"]
    titles = [title for title in titles if truth is not None or title != "truth"]
    figure = _figure(len(titles) * _CELL, len(planes) * _CELL + 0.9)
    axes = figure.subplots(len(planes), len(titles), squeeze=False)
    shades = None
    for row, plane in zip(axes, planes, strict=True):
        cells = dict(zip(titles, row, strict=True))
        for cell in row:
            _show_image(cell, image[plane], dim=cell is not row[0])
        if truth is not None:
            _show_labels(cells["truth"], truth[plane], palette)
        for title, label in labels.items():
            _show_labels(cells[title], label[plane], palette)
        _show_mask(cells["changed by rectification"], maps.changed[plane])
        shades = _show_shades(cells["uncertainty 1 − p"], maps.uncertainty[plane], (0, 0.5), "magma")
        _show_labels(cells["prediction"], maps.prediction[plane], palette)
        row[0].set_ylabel(f"plane {plane}", fontsize=8)
    for cell, title in zip(axes[0], titles, strict=True):
        cell.set_title(title.replace(" by ", "\nby ").replace("'s ", "'s\n"), fontsize=8)
    figure.colorbar(shades, ax=axes[:, titles.index("uncertainty 1 − p")], location="bottom", fraction=0.05)
    _legend(figure, colours)
    return figure


def clue_figure(image: ImageDHW, maps: BeliefMaps, colours: Mapping[str, str], plane: int) -> Figure | None:
    """Prototype similarity above and clues M below, a column for each class; None where there are no clues."""
    if maps.clues is None or maps.similarity is None:
        return None
    names = list(colours)
    figure = _figure((len(names) + 1) * _CELL * 1.15, 2 * _CELL * 1.15 + 0.5)
    axes = figure.subplots(2, len(names) + 1, squeeze=False)
    similarity, clues = maps.similarity[:, plane], maps.clues[:, plane]
    low, high = np.percentile(similarity, (1, 99))
    reach = float(np.percentile(np.abs(clues), 99))
    rows: tuple[tuple[str, Any, tuple[float, float], str], ...] = (
        ("prototype similarity", similarity, (float(low), float(high)), "viridis"),
        ("clues M", clues, (-reach, reach), "RdBu_r"),
    )
    for row, (title, values, limits, colour_map) in zip(axes, rows, strict=True):
        _show_image(row[0], image[plane], dim=False)
        row[0].set_ylabel(title, fontsize=9)
        for cell, name, shades in zip(row[1:], names, values, strict=True):
            drawn = _show_shades(cell, shades, limits, colour_map)
            cell.set_title(name, fontsize=9, color="black")
        figure.colorbar(drawn, ax=row, fraction=0.02, pad=0.01)
    axes[0, 0].set_title(f"image, plane {plane}", fontsize=9)
    return figure


def curve_figure(runs: Mapping[str, Sequence[Stepped]]) -> Figure:
    """Losses, μ, agreement of student and pseudo-label, and share of voxels that rectification changes, by iteration.

    Parameters
    ----------
    runs : reports by name of the run
    """
    panels: dict[str, Callable[[Stepped], Mapping[str, float]]] = {
        "losses": lambda event: {name: value for name, value in event.losses.items() if name != "total"},
        "μ: trust in the teacher over the clues": lambda event: _only(event, "mu"),
        "agreement of student and pseudo-label": lambda event: _only(event, "agreement"),
        "share of voxels changed by rectification": lambda event: _only(event, "changed"),
    }
    figure = _figure(10, 5.6)
    for axes, (title, pick) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        for colour, (name, events) in zip(_RUN_COLOURS, runs.items(), strict=False):
            _draw_curves(axes, name, events, pick, colour)
        axes.set_title(title, fontsize=9, loc="left")
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("iteration", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(fontsize=7, frameon=False)
    figure.axes[0].set_yscale("log")
    return figure


def png(figure: Figure, dpi: int = 130) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def data_url(figure: Figure) -> str:
    """The figure as what an `img` of a self-contained page shows."""
    return "data:image/png;base64," + base64.b64encode(png(figure)).decode()


def telling_planes(labels: LabelDHW, count: int) -> list[int]:
    """Planes along D, in order and spread over the foreground, each the fullest of classes in its stretch."""
    inside = np.flatnonzero((labels > 0).any((1, 2)))
    if len(inside) == 0:
        return [labels.shape[0] // 2]
    stretches = np.array_split(inside, count)
    return [int(max(part, key=lambda plane: _richness(labels[plane]))) for part in stretches if len(part)]


def _richness(plane: NDArray[Any]) -> tuple[int, int]:
    return len(np.unique(plane)), int((plane > 0).sum())


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _show_image(axes: Axes, plane: NDArray[Any], dim: bool) -> None:
    low, high = np.percentile(plane, (0.5, 99.5))
    axes.imshow(plane, cmap="gray", vmin=low, vmax=high + dim * (high - low) * 0.6, origin="lower")
    axes.set_xticks([])
    axes.set_yticks([])


def _show_labels(axes: Axes, plane: NDArray[Any], palette: Sequence[str]) -> None:
    from matplotlib.colors import to_rgb

    colours = np.array(
        [(*to_rgb(colour), 0.0 if index == 0 else 0.62) for index, colour in enumerate(palette)]
    )
    axes.imshow(colours[plane], origin="lower", interpolation="nearest")


def _show_mask(axes: Axes, plane: NDArray[np.bool_]) -> None:
    shown = np.zeros((*plane.shape, 4))
    shown[plane] = (1.0, 0.85, 0.0, 1.0)
    axes.imshow(shown, origin="lower", interpolation="nearest")


def _show_shades(axes: Axes, plane: NDArray[Any], limits: tuple[float, float], colour_map: str) -> Any:
    axes.set_xticks([])
    axes.set_yticks([])
    return axes.imshow(plane, cmap=colour_map, vmin=limits[0], vmax=limits[1], origin="lower")


def _legend(figure: Figure, colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in list(colours.items())[1:]]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)


def _draw_curves(
    axes: Axes,
    run: str,
    events: Sequence[Stepped],
    pick: Callable[[Stepped], Mapping[str, float]],
    colour: str,
) -> None:
    names = list(dict.fromkeys(name for event in events for name in pick(event)))
    for dashes, name in zip(_DASHES, names, strict=False):
        points = [(event.step, pick(event)[name]) for event in events if name in pick(event)]
        label = f"{run}: {name}" if len(names) > 1 or name == "supervised" else run
        axes.plot(*zip(*points, strict=True), dashes, color=colour, linewidth=1.3, label=label)


def _only(event: Stepped, name: str) -> dict[str, float]:
    return {name: event.measures[name]} if name in event.measures else {}
