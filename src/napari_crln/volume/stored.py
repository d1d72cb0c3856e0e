"""One volume of a project: a lazy view of its OME-Zarr folder.

Nothing is read before it is asked for, so a project of hundreds opens at once. Geometry, scaling,
normalisation and source never change after import; annotation and prediction may, by another process too, and
are looked up each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from napari_crln.durable import check_within, current, read_whole, replacing_folder
from napari_crln.errors import CorruptData, GridMismatch, ProjectError
from napari_crln.types import (
    AnnotationDHW,
    Coverage,
    ImageDHW,
    LabelDHW,
    Role,
    ShapeDHW,
    TargetDHW,
)
from napari_crln.volume import annotation, ome, pyramid, store
from napari_crln.volume.annotation import Annotated, Box, list_labels
from napari_crln.volume.geometry import Grid
from napari_crln.volume.intensity import Normalisation, Scaling
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.names import check_name
from napari_crln.volume.seal import KEY
from napari_crln.volume.source import Source


class VolumeRecord(BaseModel):
    """Our attributes of a volume's group; fixed at import."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    affine: tuple[tuple[float, float, float, float], ...]
    scaling: Scaling
    normalisation: Normalisation
    source: Source | None


@dataclass(frozen=True)
class Volume:
    """One volume of a project; obtained from `Project.volumes`."""

    path: Path
    name: str
    role: Role
    classes: ClassTable

    @cached_property
    def grid(self) -> Grid:
        """Shape and affine of the stored, RAS+ array."""
        d, h, w = self.image.shape
        return Grid((d, h, w), self._record.affine)  # type: ignore[arg-type]

    @property
    def scaling(self) -> Scaling:
        """Slope and intercept from stored to the file's own units."""
        return self._record.scaling

    @property
    def normalisation(self) -> Normalisation:
        return self._record.normalisation

    @property
    def source(self) -> Source:
        """The file it came from; a made-up NIfTI source where it came as an array."""
        return self._record.source or Source.made_up(self.name, self.grid, self.image.dtype)

    @property
    def image(self) -> zarr.Array[Any]:
        """Level 0, (D, H, W), stored dtype; nothing is read before it is sliced."""
        self._check_within("0")
        return store.open_array(self.path / "0")

    def read_image(self) -> ImageDHW:
        """The whole image in its stored dtype, checksums verified."""
        self._check_within("0")
        return store.read(self.path / "0")

    def open_levels(self) -> list[zarr.Array[Any]]:
        """The image's levels, finest first; nothing is read before they are sliced."""
        self._check_within("0")
        return store.open_levels(self.path)

    @property
    def has_annotation(self) -> bool:
        return annotation.folder_of(self.path).exists()

    @property
    def coverage(self) -> Coverage | None:
        """dense: every voxel is annotated; sparse: some; None without an annotation."""
        return annotation.record_of(self.path).coverage if self.has_annotation else None

    @property
    def revision(self) -> int:
        """How often the annotation was written; 0 without one."""
        return annotation.record_of(self.path).revision if self.has_annotation else 0

    @property
    def annotated(self) -> int:
        """Number of annotated voxels; counted where an older version wrote the annotation."""
        if not self.has_annotation:
            return 0
        known = annotation.record_of(self.path).annotated
        return int(np.count_nonzero(self.read_annotation())) if known is None else known

    def read_annotation(self, box: Box | None = None) -> AnnotationDHW:
        """Annotation values, of the whole or of a box; raises ProjectError if there are none."""
        return self.read_annotated(box).values

    def read_annotated(self, box: Box | None = None) -> Annotated:
        """`read_annotation`, with the revision that was read."""
        if not self.has_annotation:
            raise self._lacks("annotation", "Annotate it, or import it with a label")
        return annotation.read(self.path, box)

    def read_targets(self) -> TargetDHW:
        """Class indices, IGNORE where nobody annotated; raises ProjectError without an annotation."""
        return self.classes.targets(self.read_annotation())

    def changes_since(self, revision: int) -> Box | None:
        """The box of the annotation that has changed since a revision; None if that may be the whole."""
        return annotation.changes_since(self.path, revision)

    def write_annotation(self, values: AnnotationDHW, coverage: Coverage, expected: int | None = None) -> int:
        """Replace the annotation, whole or not at all; returns its new revision.

        Parameters
        ----------
        expected : the revision that is replaced; ProjectError if it is another

        Raises
        ------
        ProjectError
            If another process is writing it, naming the process.
        """
        return annotation.write(self._place, values, coverage, expected)

    def write_annotation_region(
        self,
        start: ShapeDHW,
        values: AnnotationDHW,
        where: NDArray[np.bool_] | None = None,
        *,
        tidy: bool = True,
    ) -> int:
        """Change a region of the annotation, whole or not at all, writing only chunks that differ.

        A volume without an annotation gets a sparse one. Parameters, result and errors as of
        `annotation.write_region` and `write_annotation`.
        """
        return annotation.write_region(self._place, start, values, where, tidy=tidy)

    @property
    def has_prediction(self) -> bool:
        return self._label_path("prediction").exists()

    def read_prediction(self) -> LabelDHW:
        """Class indices of one prediction, never half old, half new; raises ProjectError if there are none."""
        if not self.has_prediction:
            raise self._lacks("prediction", "Predict it first")
        labels = read_whole(self.path / "labels" / "prediction", lambda folder: store.read(folder / "0"))
        self._check_prediction(labels)
        return labels

    @property
    def prediction_attributes(self) -> dict[str, Any]:
        """What `write_prediction` was told: run, checkpoint and the like."""
        if not self.has_prediction:
            raise self._lacks("prediction", "Predict it first")
        return dict(store.read_attributes(self._label_path("prediction")).get(KEY, {}))

    def write_prediction(self, class_indices: LabelDHW, attrs: dict[str, Any] | None = None) -> None:
        """Store class indices (D, H, W) with JSON attributes; replaces an older prediction whole.

        `class_indices` may be anything that can be sliced: it is written tile by tile.
        """
        self._check_shape(class_indices.shape, "prediction")
        self._check_within("labels")
        levels = pyramid.plan(self.grid.shape, self.grid.spacing)
        described = ome.label("prediction", levels, self.classes, offset=0)
        with replacing_folder(self.path / "labels" / "prediction") as folder:
            attributes = {"ome": described, KEY: attrs or {}}
            store.write_multiscale(folder, class_indices, levels, "label", attributes)
        list_labels(self.path)

    def write_map(self, name: str, values: NDArray[Any], attrs: dict[str, Any] | None = None) -> None:
        """Store a float map (D, H, W) or (C, D, H, W), such as clues or probability, under `maps/<name>`."""
        self._check_shape(values.shape[-3:], name)
        self._check_within("maps")
        levels = pyramid.plan(self.grid.shape, self.grid.spacing)
        described = ome.image(name, levels, "image", channels=values.ndim == 4)
        maps = self.path / "maps"
        with replacing_folder(maps / check_name(name)) as folder:
            store.write_multiscale(folder, values, levels, "image", {"ome": described, KEY: attrs or {}})
        if not (maps / "zarr.json").exists():
            store.write_group(maps, {})

    @cached_property
    def _record(self) -> VolumeRecord:
        try:
            return VolumeRecord.model_validate(store.read_attributes(self.path).get(KEY))
        except ValidationError as error:
            raise _unfit(self.path, error) from error

    @property
    def _place(self) -> annotation.Place:
        return annotation.Place(self.path, self.grid, self.classes)

    def _label_path(self, name: str) -> Path:
        self._check_within("labels", name)
        return current(self.path / "labels" / name)

    def _check_within(self, *parts: str) -> None:
        """Refuse a link between the project's folder and a folder of this volume."""
        check_within(self.path.joinpath(*parts), self.path.parent.parent)

    def _check_prediction(self, labels: LabelDHW) -> None:
        if labels.shape != self.grid.shape or labels.dtype.kind != "u" or labels.max() >= len(self.classes):
            raise CorruptData(
                f"labels of {labels.dtype}, shape {labels.shape}, up to {labels.max()}",
                f"a prediction is unsigned, of shape {self.grid.shape}, up to {len(self.classes) - 1}",
                "Predict the volume again, or restore project.toml from a copy",
                self.path,
            )

    def _check_shape(self, shape: tuple[int, ...], what: str) -> None:
        if tuple(shape) != self.grid.shape:
            raise GridMismatch(
                f"{what} of shape {tuple(shape)}",
                f"the volume's is {self.grid.shape}",
                "Write its own",
                self.name,
            )

    def _lacks(self, what: str, remedy: str) -> ProjectError:
        return ProjectError(f"no {what}", "it is stored with the volume once made", remedy, self.path)


def _unfit(path: Path, error: ValidationError) -> CorruptData:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or KEY
    return CorruptData(
        f"attribute {field}: {first['msg']}", "it is as import wrote it", "Import it again", path
    )
