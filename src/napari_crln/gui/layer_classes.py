"""What the values of labels layers mean: dense or sparse, and which classes.

Dense: 0 is background, unless another value is named so. Sparse: 0 is *not annotated*, one other value may be
background, the rest are classes.

Nobody can tell for sure from the voxels whether zeros are background or unseen, so `propose_coverage` only
proposes: people who annotate sparsely paint single slices, or leave almost everything unpainted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from napari_crln.errors import InvalidLabel
from napari_crln.gui.label_look import bands, label_values, value_colours, value_names
from napari_crln.gui.layer_volume import LayerArray, LayerVolume
from napari_crln.types import Coverage
from napari_crln.volume.labels import ClassTable, LabelClass, default_colour

#: From this share of zeros on, labels are taken for a few brush strokes.
SPARSE_SHARE = 0.995
#: Painted runs of at most so many slices are single slices, no object cut by them.
_THIN = 2


@dataclass(frozen=True)
class CoverageProposal:
    """A guess, for the question that is asked once.

    Parameters
    ----------
    unlabelled : share of voxels of value 0 over all labels, 0-1
    background : the value that the layers name background, if it is not 0
    reason : a sentence for a person
    certain : the layers say so themselves, so that nobody need be asked
    """

    coverage: Coverage
    unlabelled: float
    background: int | None
    reason: str
    certain: bool = False


def propose_coverage(plan: Sequence[LayerVolume]) -> CoverageProposal | None:
    """Whether labels seem dense or sparse; reads every voxel of them. None if nothing is painted in any."""
    found = [
        (volume.labels, _painted(volume.labels.ras.voxels)) for volume in plan if volume.labels is not None
    ]
    labels, seen = [each for each, (count, _) in found if count], [one for _, one in found if one[0]]
    if not labels:
        return None
    share = 1 - sum(count for count, _ in seen) / sum(int(np.prod(each.grid.shape)) for each in labels)
    background = next((value for each in labels if (value := _named_background(each))), None)
    told = _told(labels)
    if told is not None:
        return CoverageProposal(told, share, background, f"the layers say that they are {told}", certain=True)
    coverage, reason = _guess([axes for _, axes in seen], share, background)
    return CoverageProposal(coverage, share, background, reason)


def class_table(plan: Sequence[LayerVolume], coverage: Coverage, background: int | None = None) -> ClassTable:
    """The classes of the labels' values, with the names and colours that the layers give them.

    Parameters
    ----------
    background : value that means background; none: 0 where labels are dense, no value where they are sparse

    Raises
    ------
    InvalidLabel
        If there is no class, a value is negative, or layers name a value differently.
    """
    labels = [volume.labels for volume in plan if volume.labels is not None]
    if coverage == "sparse" and background == 0:
        raise InvalidLabel(
            "background 0 in sparse labels",
            "0 means not annotated there",
            "Name another value, or none, or declare the labels dense",
        )
    values = {value for each in labels for value in label_values(each.ras.voxels)}
    names = _names(labels)
    zero = background or 0
    found = sorted((values | set(names)) - {0, zero})
    _check_values(found)
    colours = _colours(labels, found)
    called = [names.get(value, f"class {value}") for value in found]
    title = names.get(zero, "background") if background else "background"
    entries = enumerate(zip([zero, *found], [title, *called], strict=True))
    return ClassTable([LabelClass(i, n, colours.get(v, default_colour(i)), v) for i, (v, n) in entries])


def _painted(voxels: Any) -> tuple[int, list[NDArray[np.bool_]]]:
    """Voxels that are not 0, and for each axis the slices that hold any."""
    count, along_d, across = 0, [], np.zeros(voxels.shape[1:], bool)
    for band in bands(voxels):
        painted = band != 0
        count += int(painted.sum())
        along_d.append(painted.any(axis=(1, 2)))
        across |= painted.any(axis=0)
    return count, [np.concatenate(along_d), np.asarray(across.any(axis=1)), np.asarray(across.any(axis=0))]


def _told(labels: Sequence[LayerArray]) -> Coverage | None:
    """What all of the layers, being of ours, say."""
    told = {each.tag.get("coverage") for each in labels}
    return next((coverage for coverage in get_args(Coverage) if told == {coverage}), None)


def _guess(
    seen: Sequence[list[NDArray[np.bool_]]],
    share: float,
    background: int | None,
) -> tuple[Coverage, str]:
    if background is not None:
        return "sparse", f"value {background} is named background, so 0 seems to be what nobody annotated"
    if share >= SPARSE_SHARE:
        return "sparse", f"{share:.1%} of the voxels are 0"
    if any(_in_single_slices(slices) for axes in seen for slices in axes):
        return "sparse", "single slices are painted"
    return "dense", f"{1 - share:.1%} of the voxels belong to objects that go on from slice to slice"


def _in_single_slices(slices: NDArray[np.bool_]) -> bool:
    """Whether most runs of painted slices are thin, on an axis long enough to tell."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], slices, [False]]).astype(np.int8)))
    runs = edges[1::2] - edges[::2]
    return len(slices) > 4 * _THIN and len(runs) > 0 and float(np.median(runs)) <= _THIN


def _named_background(labels: LayerArray) -> int | None:
    names = value_names(labels.state)
    return next((v for v, name in names.items() if v > 0 and name.strip().casefold() == "background"), None)


def _names(labels: Iterable[LayerArray]) -> dict[int, str]:
    names: dict[int, str] = {}
    for each in labels:
        for value, name in value_names(each.state).items():
            if names.setdefault(value, name) != name:
                raise InvalidLabel(
                    f"value {value} is {names[value]!r} in one layer and {name!r} in another",
                    "a value means the same class everywhere",
                    "Renumber or rename one",
                    each.name,
                )
    return names


def _check_values(values: Sequence[int]) -> None:
    if not values:
        raise InvalidLabel(
            "no class: nothing is painted in any labels layer",
            "a project has at least one class",
            "Paint a structure in a labels layer of one image (New labels layer, above the list of layers) first",
        )
    if values[0] < 0:
        raise InvalidLabel(
            f"label value {values[0]}", "values of labels layers are 0 or more", "Renumber the labels"
        )


def _colours(labels: Sequence[LayerArray], values: Sequence[int]) -> dict[int, str]:
    """Of each value, in the first layer that shows it."""
    return {v: c for each in reversed(labels) for v, c in value_colours(each.state, values).items()}
