"""Open layers as volumes of a new project.

Three steps. `layer_states` copies what layers are, without their voxels: milliseconds, on the viewer's thread.
`plan_volumes` looks at names, shapes and places; `create_project` reads, checks and writes: both may run in another
thread while the viewer goes on. (`plan_from_layers` is the first two, for scripts.) Before the third the user is asked once whether labels are dense or sparse (`layer_classes.propose_coverage`
has a guess), and which value of sparse labels is background, if one is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.durable import check_free, creating_folder
from napari_crln.errors import UsageError
from napari_crln.gui.layer_classes import class_table
from napari_crln.gui.layer_data import Layer
from napari_crln.gui.layer_geometry import State, place, recorded_source
from napari_crln.gui.layer_pairs import pair
from napari_crln.gui.layer_volume import LayerArray, LayerVolume
from napari_crln.gui.tags import tag_of
from napari_crln.types import NOT_ANNOTATED, AnnotationDHW, AnyPath, Coverage
from napari_crln.volume.incoming import Incoming
from napari_crln.volume.intensity import DEFAULT_KIND, Kind
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.names import numbered, plain_name, same_file
from napari_crln.volume.project import Project
from napari_crln.volume.source import Source

#: Called after each volume with (volumes done, volumes in all, name of the volume).
Progress = Callable[[int, int, str], None]
#: Contents of layers of ours that are shown, not given: never taken into a project.
_SHOWN = ("preview", "prediction")
_LIVE = "crln: "  # so the panel names its live layers


def plan_from_layers(layers: Iterable[Any]) -> list[LayerVolume]:
    """The volumes that these layers are: each Image layer, with the Labels layer that belongs to it.

    Other layers, and previews and predictions of ours, are left out, and so is what shows a volume of a project whose
    image is there as a layer of the user's own: the panel's layers beside those that its project was made of. No voxel
    is read.

    Raises
    ------
    InvalidIntensity
        For colour, 2D, and time or channel axes of more than one.
    GridMismatch
        If labels lie on no image's grid, or units make no sense.
    InvalidLabel
        If it is unclear which image labels belong to.
    UsageError
        If there is no image layer.
    """
    return plan_volumes(layer_states(layers))


def layer_states(layers: Iterable[Any]) -> list[Layer]:
    """Data, state and type of layers; only the thread that changes layers may call it."""
    return [layer.as_layer_data_tuple() for layer in layers]


def plan_volumes(states: Iterable[Layer]) -> list[LayerVolume]:
    """As `plan_from_layers`, of `layer_states`. The first call takes seconds: it imports NiBabel and Dask."""
    given = [(d, state, kind) for d, state, kind in states if not _is_shown(state)]
    images, labels = (
        [_array(data, state) for data, state, k in given if k == kind] for kind in ("image", "labels")
    )
    sources = [image for image in images if _volume_of(image.state) is None]
    by_name = dict(zip(_unique([plain_name(image.name) for image in sources]), sources, strict=True))
    images, labels = ([each for each in some if not _is_double(each, by_name)] for some in (images, labels))
    if not images:
        raise UsageError("no image layer", "a volume is an image, with labels or without", "Open an image")
    labels_of = {image: labels[number] for number, image in pair(images, labels).items()}
    names = _unique([plain_name(image.name) for image in images])
    return [
        LayerVolume(names[n], image, labels_of.get(n), "labelled" if n in labels_of else "unlabelled")
        for n, image in enumerate(images)
    ]


def renamed(plan: Sequence[LayerVolume], most: int = 3) -> str:
    """Which volumes cannot have their layers' names, in a line for a person; "" if all can."""
    pairs = [f"'{v.image.name}' is the volume '{v.name}'" for v in plan if v.name != v.image.name]
    if not pairs:
        return ""
    more = f", and {len(pairs) - most} more are renamed" if len(pairs) > most else ""
    return f"{', '.join(pairs[:most])}{more}: names of volumes are file names, and no two are alike."


def left_out(states: Iterable[Layer], plan: Sequence[LayerVolume], most: int = 3) -> str:
    """Which annotations of a project are left out of a plan, in a line for a person; "" if none are."""
    taken = {id(volume.labels.state) for volume in plan if volume.labels is not None}
    names = [
        f"'{state.get('name')}'"
        for _, state, kind in states
        if kind == "labels" and _volume_of(state) and not _is_shown(state) and id(state) not in taken
    ]
    if not names:
        return ""
    more = ", …" if len(names) > most else ""
    return f"Left out, as layers of yours show the same images: {', '.join(names[:most])}{more}."


def create_project(
    path: AnyPath,
    plan: Sequence[LayerVolume],
    coverage: Coverage = "dense",
    *,
    background: int | None = None,
    classes: ClassTable | None = None,
    normalisation: Kind = DEFAULT_KIND,
    progress: Progress | None = None,
) -> Project:
    """Make a project of planned volumes; it appears whole at the end, or not at all. Images may be larger than memory.

    Parameters
    ----------
    path : of the new project folder
    coverage : of all labels
    background : value of labels that means background; none: 0 where dense, no value where sparse
    classes : by the labels' values; none: `class_table`
    progress : called after each volume

    Labels in which nothing is painted count as none: their volume is unlabelled.

    Raises
    ------
    ProjectError, InvalidIntensity, InvalidLabel, OutOfSpace
    """
    path = Path(path)
    check_free(path)
    table = classes or class_table(plan, coverage, background)
    with creating_folder(path) as folder:
        draft = Project.fill_new(folder, table, normalisation, _preset(plan))
        for done, volume in enumerate(plan, start=1):
            draft.add_incoming(_incoming(volume, coverage, background, table))
            if progress is not None:
                progress(done, len(plan), volume.name)
    return Project.open(path)


class _Turned:
    """A lazy array as `Project.add` takes it: what is sliced comes as NumPy."""

    def __init__(self, voxels: Any) -> None:
        self._voxels = voxels
        self.shape, self.dtype, self.ndim = tuple(voxels.shape), voxels.dtype, voxels.ndim

    def __getitem__(self, region: Any) -> NDArray[Any]:
        return np.asarray(self._voxels[region])


def _preset(plan: Sequence[LayerVolume]) -> str | None:
    """The preset that all images ask for: sample data of ours do."""
    asked = {volume.image.tag.get("preset") for volume in plan}
    return asked.pop() if len(asked) == 1 else None


def _array(data: Any, state: dict[str, Any]) -> LayerArray:
    name = str(state.get("name") or "layer")
    return LayerArray(name, place(data, state, name), state)


def _is_shown(state: State) -> bool:
    ours = tag_of(state.get("metadata") or {}).get("content") in _SHOWN
    return ours or str(state.get("name", "")).startswith(_LIVE)


def _volume_of(state: State) -> str | None:
    """Name of the volume of a project that a layer shows, of whichever project; None if it shows none."""
    return tag_of(state.get("metadata") or {}).get("volume")


def _is_double(layer: LayerArray, sources: Mapping[str, LayerArray]) -> bool:
    """Whether a layer shows a volume of a project that one of the user's own images, by name, would become again."""
    source = sources.get(_volume_of(layer.state) or "")
    return source is not None and layer.grid.difference(source.grid) is None


def _unique(names: Sequence[str]) -> list[str]:
    """`-2`, `-3` … where a name was there before, whatever its case."""
    unique: list[str] = []
    for name in names:
        number, free = 1, name
        while same_file(free) in {same_file(taken) for taken in unique}:
            number += 1
            free = numbered(name, number)
        unique.append(free)
    return unique


def _incoming(volume: LayerVolume, coverage: Coverage, background: int | None, table: ClassTable) -> Incoming:
    image = volume.image.ras
    annotation = _annotation(volume.labels, coverage, background, table)
    role = "unlabelled" if annotation is None and volume.role == "labelled" else volume.role
    return Incoming(
        volume.name,
        image.voxels if isinstance(image.voxels, np.ndarray) else _Turned(image.voxels),  # type: ignore[arg-type]
        image.grid,
        role,
        annotation,
        coverage,
        source=_source(volume.image),
    )


def _annotation(
    labels: LayerArray | None, coverage: Coverage, background: int | None, table: ClassTable
) -> AnnotationDHW | None:
    """Annotation values; None without labels, or where nothing is painted."""
    if labels is None:
        return None
    values = np.asarray(labels.ras.voxels)
    values = values.astype(np.uint8) if values.dtype == bool else values
    if not values.any():
        return None
    if coverage == "dense":
        return table.encode(values, where=labels.name)
    annotation = table.encode(values, ignore=0 if background else None, where=labels.name)
    annotation[values == 0] = NOT_ANNOTATED
    return annotation


def _source(image: LayerArray) -> Source | None:
    """The layer's file; else, where the layer's axes do not run as RAS+, a made-up one that remembers how."""
    recorded = recorded_source(image.state, image.placed)
    if recorded is not None:
        return recorded
    if np.array_equal(image.placed.affine, image.ras.affine) and image.placed.grid.shape == image.grid.shape:
        return None
    return Source.made_up(image.name, image.placed.grid, image.placed.voxels.dtype)
