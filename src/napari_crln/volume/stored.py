"""One volume of a project: a lazy view of its OME-Zarr folder.

Nothing is read before it is asked for, so a project of hundreds opens at once. Geometry, scaling,
normalisation and source never change after import; annotation and prediction may, by another process too, and
are looked up each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import zarr
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from napari_crln.durable import check_within, current, replacing_folder
from napari_crln.errors import CorruptData, GridMismatch, ProjectError
from napari_crln.types import AnnotationDHW, Coverage, ImageDHW, LabelDHW, NormalisedDHW, Role, TargetDHW
from napari_crln.volume import ome, pyramid, store
from napari_crln.volume.checks import check_annotation
from napari_crln.volume.geometry import Grid
from napari_crln.volume.intensity import Normalisation, Scaling
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.names import check_name
from napari_crln.volume.seal import KEY
from napari_crln.volume.source import Source

_ATTEMPTS = 5


class VolumeRecord(BaseModel):
    """Our attributes of a volume's group; fixed at import."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    affine: tuple[tuple[float, float, float, float], ...]
    scaling: Scaling
    normalisation: Normalisation
    source: Source | None


class AnnotationRecord(BaseModel):
    """Our attributes of an annotation."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    coverage: Coverage
    revision: int


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

    def read_normalised(self) -> NormalisedDHW:
        """The whole image after the recorded normalisation."""
        return self.normalisation.apply(self.read_image())

    @property
    def has_annotation(self) -> bool:
        return self._annotation_path.exists()

    @property
    def coverage(self) -> Coverage | None:
        """dense: every voxel is annotated; sparse: some; None without an annotation."""
        return self._annotation_record.coverage if self.has_annotation else None

    @property
    def revision(self) -> int:
        """How often the annotation was written; 0 without one."""
        return self._annotation_record.revision if self.has_annotation else 0

    def read_annotation(self) -> AnnotationDHW:
        """Annotation values; raises ProjectError if there are none."""
        if not self.has_annotation:
            raise self._lacks("annotation", "Annotate it, or import it with a label")
        return self._read_settled(lambda: store.read(self._annotation_path / "0"))

    def read_targets(self) -> TargetDHW:
        """Class indices, IGNORE where nobody annotated; raises ProjectError without an annotation."""
        return self.classes.targets(self.read_annotation())

    def write_annotation(self, annotation: AnnotationDHW, coverage: Coverage) -> int:
        """Replace the annotation, whole or not at all; returns its new revision."""
        check_annotation(annotation, self.grid, self.classes, self.name)
        self._check_within("labels")
        revision = self.revision + 1
        with replacing_folder(self.path / "labels" / "annotation") as folder:
            fill_annotation(folder, annotation, self.grid, self.classes, coverage, revision=revision)
        list_labels(self.path)
        return revision

    @property
    def has_prediction(self) -> bool:
        return self._label_path("prediction").exists()

    def read_prediction(self) -> LabelDHW:
        """Class indices; raises ProjectError if there are none."""
        if not self.has_prediction:
            raise self._lacks("prediction", "Predict it first")
        labels = store.read(self._label_path("prediction") / "0")
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
        if not (maps / "zarr.json").exists():
            store.write_group(maps, {})
        with replacing_folder(maps / check_name(name)) as folder:
            store.write_multiscale(folder, values, levels, "image", {"ome": described, KEY: attrs or {}})

    def has_map(self, name: str) -> bool:
        return self._map_path(name).exists()

    def read_map(self, name: str) -> NDArray[Any]:
        """A stored map; raises ProjectError if there is none of that name."""
        if not self.has_map(name):
            raise self._lacks(f"map {name!r}", "Predict it with this map switched on")
        return store.read(self._map_path(name) / "0")

    @cached_property
    def _record(self) -> VolumeRecord:
        try:
            return VolumeRecord.model_validate(store.read_attributes(self.path).get(KEY))
        except ValidationError as error:
            raise _unfit(self.path, error) from error

    @property
    def _annotation_record(self) -> AnnotationRecord:
        try:
            return AnnotationRecord.model_validate(store.read_attributes(self._annotation_path).get(KEY))
        except ValidationError as error:
            raise _unfit(self._annotation_path, error) from error

    def _read_settled(self, read: Callable[[], AnnotationDHW]) -> AnnotationDHW:
        """Read again if another process replaced the annotation meanwhile: never half old, half new."""
        for _ in range(_ATTEMPTS):
            revision = self.revision
            try:
                values = read()
            except (CorruptData, FileNotFoundError):
                if self.revision == revision:
                    raise
                continue
            if self.revision == revision:
                return values
        return read()

    @property
    def _annotation_path(self) -> Path:
        return self._label_path("annotation")

    def _label_path(self, name: str) -> Path:
        self._check_within("labels", name)
        return current(self.path / "labels" / name)

    def _map_path(self, name: str) -> Path:
        self._check_within("maps", check_name(name))
        return current(self.path / "maps" / name)

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


def list_labels(volume: Path) -> None:
    """Write the OME list of a volume's labels from what is there."""
    labels = volume / "labels"
    names = sorted(p.name for p in labels.iterdir() if p.is_dir() and not p.name.startswith("."))
    store.write_group(labels, {"ome": ome.label_list(names)})


def fill_annotation(
    folder: Path,
    annotation: AnnotationDHW,
    grid: Grid,
    classes: ClassTable,
    coverage: Coverage,
    *,
    revision: int = 1,
) -> None:
    """Fill a new folder with an annotation; nothing is checked or synced here."""
    levels = pyramid.plan(grid.shape, grid.spacing)
    described = ome.label("annotation", levels, classes, offset=1)
    record = AnnotationRecord(coverage=coverage, revision=revision).model_dump()
    data = annotation.astype(classes.index_dtype, copy=False)
    store.write_multiscale(folder, data, levels, "label", {"ome": described, KEY: record})


def _unfit(path: Path, error: ValidationError) -> CorruptData:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or KEY
    return CorruptData(
        f"attribute {field}: {first['msg']}", "it is as import wrote it", "Import it again", path
    )
