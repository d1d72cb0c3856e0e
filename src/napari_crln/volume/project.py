"""A project folder: a class table, a normalisation, and volumes with roles, in the order of import.

`project.toml` says what belongs to the project; a volume's folder is complete before it is listed there, so a
killed import leaves the project as it was. Each change reads the manifest again first: the viewer and the
shell may work on the same project.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from napari_crln.errors import GridMismatch, ProjectError, UsageError
from napari_crln.types import AnnotationDHW, AnyPath, Coverage, ImageDHW, Role
from napari_crln.volume import manifest as toml
from napari_crln.volume import store
from napari_crln.volume.atomic import creating_folder, sweep
from napari_crln.volume.checks import check_annotated
from napari_crln.volume.geometry import Grid
from napari_crln.volume.intensity import Kind, Scaling, measure
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.manifest import ClassEntry, Manifest, VolumeEntry
from napari_crln.volume.source import Source
from napari_crln.volume.stored import Volume, VolumeRecord, check_annotation, write_volume

#: Roles whose volumes must carry an annotation.
_ANNOTATED: tuple[Role, ...] = ("labelled", "validation")


class Project:
    """An open project; make one with `create` or `open`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self._take(manifest)

    @classmethod
    def create(cls, path: AnyPath, classes: ClassTable, normalisation: Kind = "zscore") -> Project:
        """Make a new, empty project folder.

        Raises
        ------
        ProjectError
            If the path exists.
        """
        path = Path(path)
        store.check_free(path)
        with creating_folder(path) as folder:
            cls.fill_new(folder, classes, normalisation)
        return cls.open(path)

    @classmethod
    def fill_new(cls, folder: Path, classes: ClassTable, normalisation: Kind) -> Project:
        """Make an empty project of an existing, empty folder (one that is still to be renamed)."""
        return cls(folder, _fill(folder, classes, normalisation))

    @classmethod
    def open(cls, path: AnyPath) -> Project:
        """Open an existing project; reads `project.toml` and nothing else."""
        path = Path(path)
        return cls(path, toml.read(path))

    @property
    def name(self) -> str:
        return self.path.resolve().name.removesuffix(".crln")

    @property
    def classes(self) -> ClassTable:
        return self._classes

    @property
    def normalisation(self) -> Kind:
        """The kind that new volumes are measured with."""
        return self._manifest.normalisation

    @property
    def volumes(self) -> Mapping[str, Volume]:
        """Volumes by name, in the order of import."""
        return self._volumes

    def with_role(self, role: Role) -> list[Volume]:
        """The volumes of a role, in the order of import."""
        return [volume for volume in self.volumes.values() if volume.role == role]

    def refresh(self) -> None:
        """Take in what another process changed."""
        self._take(toml.read(self.path))

    def add(
        self,
        name: str,
        image: ImageDHW,
        grid: Grid,
        role: Role,
        annotation: AnnotationDHW | None = None,
        coverage: Coverage = "dense",
        scaling: Scaling = (1.0, 0.0),
        source: Source | None = None,
        where: AnyPath | None = None,
    ) -> Volume:
        """Check, measure and store a volume; whole or not at all.

        Parameters
        ----------
        name : of the volume, unique in the project
        image : (D, H, W), RAS+, any real dtype; may be sliced lazily
        grid : of the image
        role : labelled and validation need an annotation; unlabelled takes none
        annotation : (D, H, W), 0 = not annotated, k + 1 = class k
        coverage : dense if every voxel is annotated
        scaling : slope and intercept from stored to the file's own units
        source : the file it came from, for writing results back
        where : what errors name instead of the volume's name
        """
        self.refresh()
        self.check_new(name)
        path = self.volume_path(name)
        _step_aside(path)
        sweep(path.parent)
        with creating_folder(path) as folder:
            self.fill_volume(folder, name, image, grid, role, annotation, coverage, scaling, source, where)
        self.register([VolumeEntry(name=name, role=role)])
        return self.volumes[name]

    def fill_volume(
        self,
        folder: Path,
        name: str,
        image: ImageDHW,
        grid: Grid,
        role: Role,
        annotation: AnnotationDHW | None = None,
        coverage: Coverage = "dense",
        scaling: Scaling = (1.0, 0.0),
        source: Source | None = None,
        where: AnyPath | None = None,
    ) -> None:
        """The checks and the writing of `add`, into a folder that is not yet listed."""
        where = where or name
        _check_image(image, grid, where)
        normalisation = measure(image, self.normalisation, scaling, where)
        _check_role(role, annotation is not None, where)
        if annotation is not None:
            check_annotation(annotation, grid, self.classes, str(where))
            if role == "labelled":
                check_annotated(annotation, coverage, where)
        affine = tuple(tuple(float(v) for v in row) for row in grid.affine)
        record = VolumeRecord(affine=affine, scaling=scaling, normalisation=normalisation, source=source)  # type: ignore[arg-type]
        write_volume(folder, name, image, grid, record, annotation, coverage, self.classes)

    def register(self, entries: Sequence[VolumeEntry]) -> None:
        """List volumes whose folders are complete."""
        manifest = toml.read(self.path)
        manifest = manifest.model_copy(update={"volumes": (*manifest.volumes, *entries)})
        toml.write(self.path, manifest)
        self._take(manifest)

    def set_role(self, name: str, role: Role) -> Volume:
        """Give a volume another role; its data stay as they are.

        Raises
        ------
        ProjectError
            If there is no such volume, or the role needs an annotation that it lacks.
        """
        self.refresh()
        volume = self.volume(name)
        _check_role(role, volume.has_annotation, volume.path, strict=False)
        if role == "labelled" and volume.coverage is not None:
            check_annotated(volume.read_annotation(), volume.coverage, volume.path)
        entries = [
            VolumeEntry(name=v.name, role=role if v.name == name else v.role) for v in self.volumes.values()
        ]
        manifest = self._manifest.model_copy(update={"volumes": tuple(entries)})
        toml.write(self.path, manifest)
        self._take(manifest)
        return self.volumes[name]

    def volume(self, name: str) -> Volume:
        """A volume by name; raises ProjectError if there is none."""
        if name not in self.volumes:
            some = ", ".join(list(self.volumes)[:5]) or "none yet"
            raise ProjectError(
                f"no volume {name!r}", f"its volumes are {some} …", "Check the name", self.path
            )
        return self.volumes[name]

    def volume_path(self, name: str) -> Path:
        """Where a volume of that name is stored."""
        return self.path / "volumes" / f"{toml.check_name(name)}.zarr"

    def check_new(self, name: str) -> None:
        """Refuse a name that is taken (on any file system) or no plain file name."""
        toml.check_name(name)
        if name.casefold() in {known.casefold() for known in self.volumes}:
            raise ProjectError(
                f"volume {name!r} exists",
                "names are unique, whatever their case",
                "Choose another name",
                self.path,
            )

    def _take(self, manifest: Manifest) -> None:
        self._manifest, self._classes = manifest, manifest.table
        self._volumes = MappingProxyType(
            {
                v.name: Volume(self.volume_path(v.name), v.name, v.role, self._classes)
                for v in manifest.volumes
            }
        )


def _fill(folder: Path, classes: ClassTable, normalisation: Kind) -> Manifest:
    entries = tuple(ClassEntry(name=c.name, source_id=c.source_id, colour=c.colour) for c in classes)
    manifest = Manifest(normalisation=normalisation, classes=entries)
    for name in ("volumes", "runs"):
        (folder / name).mkdir()
    toml.write(folder, manifest)
    return manifest


def _check_image(image: ImageDHW, grid: Grid, where: AnyPath) -> None:
    if tuple(image.shape) != grid.shape:
        raise GridMismatch(
            f"image of shape {tuple(image.shape)}",
            f"its grid has {grid.shape} (D, H, W)",
            "Give both alike",
            where,
        )


def _check_role(role: Role, annotated: bool, where: AnyPath, strict: bool = True) -> None:
    if role in _ANNOTATED and not annotated:
        raise ProjectError(
            f"role {role} without a label",
            "labelled and validation volumes carry one",
            "Give its label",
            where,
        )
    if strict and role == "unlabelled" and annotated:
        raise UsageError(
            "a label for role unlabelled",
            "an unlabelled volume carries none",
            "Drop the label, or the role",
            where,
        )


def _step_aside(path: Path) -> None:
    """Rename a folder that no manifest lists (a killed import's, or a stranger's): nothing is deleted."""
    number = 0
    while path.exists():
        number += 1
        other = path.with_name(f".{path.name}.unlisted-{number}")
        if not other.exists():
            os.rename(path, other)
