"""Read the generations of maps in a run's `preview.zarr`, while the engine adds some and removes others.

A generation is listed only once it is whole. The engine may remove one at any time, also while it is being
read: that is `PreviewGone`, and the newest of `generations()` is then a better one. What `Preview.read` has
returned is in memory and stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from napari_crln.errors import CorruptData, RunError
from napari_crln.events import PREVIEW
from napari_crln.previews import KEY, PER_CLASS, SCHEMA, PreviewRecord, group_name, parse_group_name
from napari_crln.volume import store


class PreviewGone(RunError):
    """A generation that the engine has removed, or that a crash of the machine has damaged."""


@dataclass(frozen=True)
class Preview:
    """One generation; its arrays are read when asked for.

    Parameters
    ----------
    path : the generation's group
    record : its attributes
    """

    path: Path
    record: PreviewRecord

    @property
    def generation(self) -> int:
        return self.record.generation

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps, those of `previews.MEANINGS` that the method has."""
        return tuple(self.record.maps)

    def read(self, name: str, class_index: int | None = None) -> NDArray[np.uint8]:
        """A map as stored, of the region's shape (D, H, W); (C, D, H, W) where it has a value a class.

        Parameters
        ----------
        name : one of `maps`
        class_index : of a map with a value a class, only this class: (D, H, W)

        Raises
        ------
        KeyError
            If the generation has no such map.
        PreviewGone
            If the engine has removed the generation.
        """
        if name not in self.record.maps:
            raise KeyError(name)
        region = None
        if class_index is not None and name in PER_CLASS:
            region = (slice(class_index, class_index + 1), slice(None), slice(None), slice(None))
        try:
            stored = store.read(self.path / name, region)
        except (CorruptData, OSError) as error:
            raise _gone(self.path) from error
        # Zarr reads a missing chunk as zeros. A generation is renamed before its files go, so if it bears its
        # name still, all of them were there.
        if not (self.path / "zarr.json").exists():
            raise _gone(self.path)
        return stored if region is None else stored[0]

    def values(self, name: str, class_index: int | None = None) -> NDArray[np.float32]:
        """A map in its own unit, float32; parameters and errors as of `read`."""
        return self.record.maps[name].values(self.read(name, class_index))

    def paste(self, name: str, target: NDArray[np.uint8], class_index: int | None = None) -> None:
        """Write a map, as stored, into its place in an array of the whole volume; the rest of it stays."""
        target[(..., *self.record.slices)] = self.read(name, class_index)


class PreviewReader:
    """The generations of one run.

    Parameters
    ----------
    run_folder : an existing run folder; its `preview.zarr` may come later
    """

    def __init__(self, run_folder: Path) -> None:
        self.path = run_folder / PREVIEW

    def generations(self) -> list[int]:
        """Complete generations, oldest first; empty if there is none yet."""
        try:
            names = [entry.name for entry in self.path.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = (parse_group_name(name) for name in names)
        return sorted(generation for generation in found if generation is not None)

    def read(self, generation: int) -> Preview:
        """A generation, its attributes read.

        Raises
        ------
        PreviewGone
            If there is none, or no longer.
        RunError
            If a newer version wrote it.
        """
        path = self.path / group_name(generation)
        try:
            attributes = store.read_attributes(path).get(KEY)
            record = PreviewRecord.model_validate(attributes)
        except (CorruptData, OSError, ValidationError) as error:
            raise _gone(path) from error
        if record.schema_version > SCHEMA:
            raise RunError(
                f"previews of schema {record.schema_version}",
                f"this version reads up to schema {SCHEMA}",
                "Update napari-crln",
                path,
            )
        return Preview(path, record)

    def newest(self) -> Preview | None:
        """The newest generation that can be read; None if there is none."""
        for generation in reversed(self.generations()):
            try:
                return self.read(generation)
            except PreviewGone:
                continue
        return None


def _gone(path: Path) -> PreviewGone:
    return PreviewGone(
        "the preview is gone",
        "only the newest engine.preview_history are kept",
        "Look at a newer one",
        path,
    )
