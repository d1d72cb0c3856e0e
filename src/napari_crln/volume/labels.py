"""Classes of a project, and the three numberings of a label.

- *source id*: the value in the user's files, any integer;
- *class index*: 0 … C-1, 0 = background, what networks and predictions speak;
- *annotation*: class index + 1, what a project stores; 0 = nobody annotated this voxel.

The annotation's offset is what lets background that somebody marked differ from voxels that nobody looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.errors import InvalidLabel
from napari_crln.types import IGNORE, NOT_ANNOTATED, AnnotationDHW, LabelDHW, TargetDHW

MOST_CLASSES = 32_766  # so that class index fits int16 targets and index + 1 uint16 annotations
_LOOKUP_SPAN = 1 << 20  # ids further apart than this go by binary search instead of a table

_COLOURS = (
    "#e6194b", "#3cb44b", "#4363d8", "#ffe119", "#f58231", "#911eb4", "#46f0f0", "#f032e6",
    "#bcf60c", "#fabebe", "#008080", "#e6beff", "#9a6324", "#fffac8", "#800000", "#aaffc3",
)  # fmt: skip


@dataclass(frozen=True)
class LabelClass:
    """One class: its index, name, colour `#rrggbb`, and id in the user's files."""

    index: int
    name: str
    colour: str
    source_id: int


class ClassTable:
    """The ordered classes of a project; index 0 is the background.

    Raises
    ------
    InvalidLabel
        If the indices are not 0 … C-1 in order, a name or source id occurs twice, or there is no foreground.
    """

    def __init__(self, classes: Sequence[LabelClass]) -> None:
        self._classes = tuple(classes)
        _check_table(self._classes)

    @classmethod
    def from_ids(cls, ids: Mapping[str, int]) -> ClassTable:
        """A table from names and source ids, background first, with colours of our choice."""
        named = enumerate(ids.items())
        return cls([LabelClass(i, name, default_colour(i), source_id) for i, (name, source_id) in named])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self._classes)

    @property
    def index_dtype(self) -> np.dtype[Any]:
        """Smallest unsigned dtype that holds every class index, and every annotation value."""
        return np.dtype(np.uint8 if len(self) < 256 else np.uint16)

    def __len__(self) -> int:
        return len(self._classes)

    def __iter__(self) -> Iterator[LabelClass]:
        return iter(self._classes)

    def __getitem__(self, index: int) -> LabelClass:
        return self._classes[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassTable) and self._classes == other._classes

    def __hash__(self) -> int:
        return hash(self._classes)

    def __repr__(self) -> str:
        return f"ClassTable({', '.join(self.names)})"

    def encode(
        self, source_labels: NDArray[Any], *, ignore: int | None = None, where: str | Path | None = None
    ) -> AnnotationDHW:
        """Source ids to annotation values; voxels of id `ignore` become 0, not annotated, be it the background's id or none.

        Raises
        ------
        InvalidLabel
            If there are ids that the table does not know; all of them are named. If `ignore` is the id of a
            foreground class.
        """
        ids, values = self._codes
        if ignore is not None:
            self._check_ignored(ignore, where)
            others = ids != ignore
            ids = np.append(ids[others], ignore)
            values = np.append(values[others], values.dtype.type(NOT_ANNOTATED))
        annotation, known = _look_up(source_labels, ids, values)
        if not known.all():
            raise self._unknown(np.unique(source_labels[~known]).tolist(), where)
        return annotation

    def decode(self, class_indices: LabelDHW) -> NDArray[Any]:
        """Class indices to source ids, in the smallest dtype that holds them (uint8 before uint16 …)."""
        ids = self._codes[0]
        highest = int(class_indices.max(initial=0))
        if highest >= len(self):
            raise InvalidLabel(
                f"class index {highest}", f"indices are 0 to {len(self) - 1}", "Pass class indices, not ids"
            )
        return np.asarray(ids.astype(smallest_dtype(ids))[class_indices])

    def targets(self, annotation: AnnotationDHW) -> TargetDHW:
        """Annotation values to class indices, int16; IGNORE where nobody annotated.

        Raises
        ------
        InvalidLabel
            If a value is beyond the classes, as where project.toml lost one.
        """
        highest = int(annotation.max(initial=0))
        if highest > len(self):
            raise InvalidLabel(
                f"annotation value {highest}",
                f"the project has {len(self)} classes, so values are 0 to {len(self)}",
                "Restore project.toml, or the annotation, from a copy",
            )
        targets = annotation.astype(np.int16)
        targets -= 1
        assert IGNORE == NOT_ANNOTATED - 1
        return targets

    @cached_property
    def _codes(self) -> tuple[NDArray[np.int64], AnnotationDHW]:
        ids = np.array([c.source_id for c in self], dtype=np.int64)
        return ids, np.arange(1, len(self) + 1).astype(self.index_dtype)

    def _check_ignored(self, ignore: int, where: str | Path | None) -> None:
        taken = next((c for c in self if c.index and c.source_id == ignore), None)
        if taken is not None:
            raise InvalidLabel(
                f"id {ignore} to mean 'not annotated'",
                f"it is the id of class {taken.name!r}",
                "Name an id that is no class's, or the background's if nobody annotated background",
                where,
            )

    def _unknown(self, ids: list[int], where: str | Path | None) -> InvalidLabel:
        shown = ", ".join(str(i) for i in ids[:8]) + (", …" if len(ids) > 8 else "")
        known = ", ".join(f"{c.source_id} = {c.name}" for c in self)
        return InvalidLabel(
            f"unknown label id {shown}",
            f"the project's classes are {known}",
            "Correct the label, or create the project with these classes",
            where,
        )


def default_colour(index: int) -> str:
    """Colour of a class by its index; background is black."""
    return "#000000" if index == 0 else _COLOURS[(index - 1) % len(_COLOURS)]


def smallest_dtype(ids: NDArray[np.int64]) -> np.dtype[Any]:
    """The smallest of uint8, uint16, int16, int32, int64 that holds all ids."""
    low, high = int(ids.min()), int(ids.max())
    for kind in (np.uint8, np.uint16, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.int64)


def _look_up(
    labels: NDArray[Any], ids: NDArray[np.int64], values: AnnotationDHW
) -> tuple[AnnotationDHW, NDArray[np.bool_]]:
    """Values by id, and where the id was known (elsewhere 0)."""
    order = np.argsort(ids)
    ids, values = ids[order], values[order]
    low, high = int(ids[0]), int(ids[-1])
    inside = (labels >= low) & (labels <= high)
    whole = np.where(inside, labels, 0).astype(np.int64)  # 0 is of every dtype, a negative id is not
    if high - low < _LOOKUP_SPAN:
        position = np.where(inside, whole - low, 0)
        table, known = np.zeros(high - low + 1, values.dtype), np.zeros(high - low + 1, bool)
        table[ids - low], known[ids - low] = values, True
        return np.where(inside, table[position], 0).astype(values.dtype), inside & known[position]
    position = np.searchsorted(ids, whole).clip(max=len(ids) - 1)
    found = inside & (ids[position] == whole)
    return np.where(found, values[position], 0).astype(values.dtype), found


def _check_table(classes: tuple[LabelClass, ...]) -> None:
    indices = [c.index for c in classes]
    if indices != list(range(len(classes))) or not 2 <= len(classes) <= MOST_CLASSES:
        raise InvalidLabel(
            f"class indices {indices}",
            f"classes are numbered 0 (background), 1, 2 … in order, with 2 to {MOST_CLASSES} of them",
            "Name the background and at least one class",
        )
    for field in ("name", "source_id"):
        seen = [getattr(c, field) for c in classes]
        double = next((value for value in seen if seen.count(value) > 1), None)
        if double is not None:
            raise InvalidLabel(
                f"two classes with {field.replace('_', ' ')} {double!r}",
                "names and ids of classes are unique",
                "Rename or renumber one",
            )
