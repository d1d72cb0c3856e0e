"""A project's volumes as a few files that NumPy alone can read, for machines without Zarr.

`pack.json` lists the cases; `part-000.bin`, … hold their voxels, each array compressed by itself (zlib) and under a
SHA-256. No file is larger than `parts.MOST`. Normalisation and spacing travel with each case.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from parts import MOST

from napari_crln.engine.cohort import Case
from napari_crln.types import IGNORE, Role
from napari_crln.volume.intensity import Normalisation, measure

INDEX = "pack.json"
SCHEMA = 1


class Packed(NamedTuple):
    """A case and what the project has it for."""

    role: Role
    case: Case


@dataclass(frozen=True)
class Pack:
    """All volumes of a project, in its order, in memory."""

    class_names: tuple[str, ...]
    cases: list[Packed]

    def of_role(self, *roles: Role) -> list[Case]:
        return [case for role, case in self.cases if role in roles]


def write_pack(folder: Path, pack: Pack) -> int:
    """Write a pack into a new folder; returns its bytes."""
    folder.mkdir(parents=True)
    writer = _Writer(folder)
    entries = []
    for role, case in pack.cases:
        target = None if case.target is None else writer.add(_narrow(np.asarray(case.target[:])))
        entries.append(
            {
                "name": case.name,
                "role": role,
                "spacing": list(case.spacing),
                "normalisation": case.normalisation.model_dump(),
                "image": writer.add(np.asarray(case.image[:])),
                "target": target,
            }
        )
    index = {"schema": SCHEMA, "classes": list(pack.class_names), "cases": entries}
    (folder / INDEX).write_text(json.dumps(index, indent=1), "utf-8")
    return sum(file.stat().st_size for file in folder.iterdir())


def read_pack(folder: Path) -> Pack:
    """Read a pack; raises ValueError where its bytes are not what was written."""
    index = json.loads((folder / INDEX).read_text("utf-8"))
    if index["schema"] > SCHEMA:
        raise ValueError(f"{folder}: schema {index['schema']}, this program reads up to {SCHEMA}")
    return Pack(tuple(index["classes"]), [_read_case(folder, entry) for entry in index["cases"]])


def halved(pack: Pack) -> Pack:
    """At half resolution: images averaged over 2 × 2 × 2 voxels, targets by majority; odd borders cut off.

    Normalisation is measured anew, of the same kind.
    """
    return Pack(pack.class_names, [Packed(role, _halved(case)) for role, case in pack.cases])


class _Writer:
    """Appends compressed arrays to files of limited size."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number, self._size = folder, 0, 0

    def add(self, array: NDArray[Any]) -> dict[str, Any]:
        """Where the array lies, and what it is."""
        data = zlib.compress(np.ascontiguousarray(array).tobytes(), 9)
        if len(data) > MOST:
            raise ValueError(f"an array of {array.shape} takes {len(data)} bytes, more than {MOST}")
        if self._size + len(data) > MOST:
            self._number, self._size = self._number + 1, 0
        file = f"part-{self._number:03d}.bin"
        with (self._folder / file).open("ab") as part:
            part.write(data)
        place = {"file": file, "offset": self._size, "bytes": len(data)}
        self._size += len(data)
        kind = {"dtype": array.dtype.str, "shape": list(array.shape)}
        return place | kind | {"sha256": hashlib.sha256(data).hexdigest()}


def _read_case(folder: Path, entry: dict[str, Any]) -> Packed:
    target = None if entry["target"] is None else _read(folder, entry["target"]).astype(np.int16)
    if target is not None:
        target -= 1  # stored by one more, as IGNORE is -1
    case = Case(
        entry["name"],
        _read(folder, entry["image"]),
        Normalisation(**entry["normalisation"]),
        target,
        tuple(entry["spacing"]),
    )
    return Packed(entry["role"], case)


def _read(folder: Path, place: dict[str, Any]) -> NDArray[Any]:
    with (folder / place["file"]).open("rb") as part:
        part.seek(place["offset"])
        data = part.read(place["bytes"])
    if hashlib.sha256(data).hexdigest() != place["sha256"]:
        raise ValueError(f"{folder / place['file']}: bytes at {place['offset']} are not what was packed")
    return np.frombuffer(bytearray(zlib.decompress(data)), place["dtype"]).reshape(place["shape"])


def _narrow(target: NDArray[Any]) -> NDArray[Any]:
    stored = target - IGNORE
    return stored.astype(np.uint8 if stored.max() < 256 else np.uint16)


def _halved(case: Case) -> Case:
    image = np.asarray(case.image[:])
    blocks = _blocks(image.astype(np.float32)).mean(-1)
    smaller = np.rint(blocks).astype(image.dtype) if image.dtype.kind in "iu" else blocks.astype(image.dtype)
    target = None if case.target is None else _majority(np.asarray(case.target[:]))
    spacing = tuple(2 * size for size in case.spacing)
    return Case(case.name, smaller, measure(smaller, case.normalisation.kind), target, spacing)  # type: ignore[arg-type]


def _majority(target: NDArray[np.int16]) -> NDArray[np.int16]:
    """The value that most of each 2 × 2 × 2 voxels have; the lowest of those that tie."""
    blocks = _blocks(target)
    values = np.unique(target)
    counts = np.stack([(blocks == value).sum(-1) for value in values])
    return np.asarray(values[counts.argmax(0)], np.int16)


def _blocks(array: NDArray[Any]) -> NDArray[Any]:
    """(d, h, w, 8) of blocks of 2 × 2 × 2 voxels."""
    d, h, w = (size // 2 for size in array.shape)
    cut = array[: 2 * d, : 2 * h, : 2 * w].reshape(d, 2, h, 2, w, 2)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(d, h, w, 8)
