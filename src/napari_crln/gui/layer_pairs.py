"""Which labels layer belongs to which image layer.

They belong together when they lie on the same grid and, if several images do, when their names say so: the labels'
name without words such as "labels", "seg" or "mask" is the image's, or holds it. A layer of ours knows its volume.
What cannot be decided is an error that says what to rename: a wrong pair would teach nonsense in silence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from napari_crln.errors import GridMismatch, InvalidLabel
from napari_crln.volume.geometry import Grid

_WORDS = re.compile(
    r"(^|[\s_\-.]+)(labels?|labelled|seg|segmentation|segm|mask|gt|truth|annotations?|annotated)(?=$|[\s_\-.\[])",
    re.IGNORECASE,
)
_CHANNEL = re.compile(r"_\d{4}$")


class Placeable(Protocol):
    """A layer's name, its volume's name if it is one of ours, and its grid after turning to RAS+."""

    @property
    def name(self) -> str: ...
    @property
    def volume(self) -> str | None: ...
    @property
    def grid(self) -> Grid: ...


def pair(images: Sequence[Placeable], labels: Sequence[Placeable]) -> dict[int, int]:
    """Position of each labels layer's image, by position of the labels.

    Raises
    ------
    GridMismatch
        If labels lie on no image's grid; the nearest in name is compared.
    InvalidLabel
        If several images could be meant, or two labels layers belong to one image.
    """
    pairs = {number: _image_of(each, images) for number, each in enumerate(labels)}
    for number, image in pairs.items():
        rival = next((n for n, i in pairs.items() if i == image and n != number), None)
        if rival is not None:
            raise InvalidLabel(
                f"labels {labels[number].name!r} and {labels[rival].name!r} both fit image {images[image].name!r}",
                "a volume has one labels layer",
                "Merge them, leave one out, or name each after its image",
            )
    return pairs


def _image_of(labels: Placeable, images: Sequence[Placeable]) -> int:
    fitting = [n for n, image in enumerate(images) if labels.grid.difference(image.grid) is None]
    if not fitting:
        raise _misfit(labels, images)
    best = max(_likeness(labels, images[n]) for n in fitting)
    chosen = [n for n in fitting if _likeness(labels, images[n]) == best]
    if len(chosen) > 1:
        names = ", ".join(repr(images[n].name) for n in chosen[:4]) + (", …" if len(chosen) > 4 else "")
        raise InvalidLabel(
            f"labels {labels.name!r} fit the images {names}",
            "the name of a labels layer tells which image it belongs to",
            _remedy([images[n].name for n in chosen]),
        )
    return chosen[0]


def _remedy(names: Sequence[str]) -> str:
    """What to rename where several images could be meant: the labels, unless that would not tell the images apart."""
    cores = [_core(name) for name in names]
    telling = next(
        (name for name, core in zip(names, cores, strict=True) if core and cores.count(core) == 1), ""
    )
    if telling:
        return f'Rename it, for example to "{telling} labels"'
    return f'Rename the image that they do not belong to, for example to "{names[0]} other"'


def _likeness(labels: Placeable, image: Placeable) -> int:
    """3: the same volume of ours; 2: the same name; 1: one name begins with the other; 0: neither."""
    if labels.volume is not None and labels.volume == image.volume:
        return 3
    one, other = _core(labels.name), _core(image.name)
    if one == other and one:
        return 2
    return int(bool(one and other) and (_begins(one, other) or _begins(other, one)))


def _begins(longer: str, shorter: str) -> bool:
    """Whether a name goes on after another one at a word's end: `liver 1` is not `liver 10`."""
    return longer.startswith(shorter) and not longer[len(shorter) : len(shorter) + 1].isalnum()


def _core(name: str) -> str:
    """What is left of a name without the words for labels and nnU-Net's channel number."""
    left = _CHANNEL.sub("", _WORDS.sub("", name.strip()))
    return re.sub(r"[\s_\-.]+", " ", left).strip().casefold()


def _misfit(labels: Placeable, images: Sequence[Placeable]) -> GridMismatch:
    nearest = max(images, key=lambda image: _likeness(labels, image), default=None)
    found = "there is no image layer" if nearest is None else f"{labels.grid.difference(nearest.grid)}"
    against = "" if nearest is None else f" (against {nearest.name!r})"
    return GridMismatch(
        f"labels {labels.name!r} lie on no image's grid: {found}{against}",
        "labels have the shape, scale, place and units of their image",
        "Leave the layer out, or make new labels on the image",
    )
