"""A project folder: a class table, a normalisation, and volumes with roles, in the order of import.

`project.toml` says what belongs to the project; a volume's folder is complete before it is listed there, so a
killed import leaves the project as it was. Each change reads the manifest again first: the viewer and the
shell may work on the same project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

from napari_crln.durable import check_free, check_within, creating_folder, sync_tree
from napari_crln.errors import ProjectError
from napari_crln.lock import Lock
from napari_crln.types import AnnotationDHW, AnyPath, Coverage, ImageDHW, Role
from napari_crln.volume import manifest as toml
from napari_crln.volume.checks import check_annotated
from napari_crln.volume.geometry import Grid
from napari_crln.volume.incoming import Incoming, check_role, store_incoming
from napari_crln.volume.intensity import DEFAULT_KIND, Kind, Scaling
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.manifest import ClassEntry, Manifest, VolumeEntry
from napari_crln.volume.names import check_name, check_no_path, same_file
from napari_crln.volume.source import Source
from napari_crln.volume.stored import Volume


class Project:
    """An open project; make one with `create` or `open`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self._take(manifest)

    @classmethod
    def create(
        cls,
        path: AnyPath,
        classes: ClassTable,
        normalisation: Kind = DEFAULT_KIND,
        preset: str | None = None,
    ) -> Project:
        """Make a new, empty project folder.

        Parameters
        ----------
        preset : of the configuration, that new runs begin with; none: sizes by the data

        Raises
        ------
        ProjectError
            If the path exists.
        """
        path = Path(path)
        check_free(path)
        with creating_folder(path) as folder:
            cls.fill_new(folder, classes, normalisation, preset)
        return cls.open(path)

    @classmethod
    def fill_new(
        cls, folder: Path, classes: ClassTable, normalisation: Kind, preset: str | None = None
    ) -> Project:
        """Make an empty project of an existing, empty folder (one that is still to be renamed)."""
        return cls(folder, _fill(folder, classes, normalisation, preset))

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
    def preset(self) -> str | None:
        """The preset that new runs begin with, unless another is chosen."""
        return self._manifest.preset

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
        *,
        coverage: Coverage = "dense",
        scaling: Scaling = (1.0, 0.0),
        source: Source | None = None,
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
        """
        return self.add_incoming(Incoming(name, image, grid, role, annotation, coverage, scaling, source))

    def add_incoming(self, volume: Incoming) -> Volume:
        """`add`, for a volume that is described already."""
        self.refresh()
        self.check_new(volume.name)
        path = self.volume_path(volume.name)
        check_within(path.parent, self.path)
        with ExitStack() as lock:  # from before the folder gets its name until it is listed
            with creating_folder(path) as folder:
                store_incoming(volume, folder, self.classes, self.normalisation)
                sync_tree(folder)  # the slow part, which nobody need wait for
                lock.enter_context(locked(self.path))
                self.refresh()
                self.check_new(volume.name)
                _step_aside(path)
            self._list([VolumeEntry(name=volume.name, role=volume.role)])
        return self.volumes[volume.name]

    def register(self, entries: Sequence[VolumeEntry]) -> None:
        """List volumes whose folders are complete."""
        with locked(self.path):
            self.refresh()
            self._list(entries)

    def set_role(self, name: str, role: Role) -> Volume:
        """Give a volume another role; its data stay as they are.

        Raises
        ------
        ProjectError
            If there is no such volume, or the role needs an annotation that it lacks.
        """
        volume = self.volume(name)
        check_role(role, volume.has_annotation and bool(volume.annotated), volume.path)
        if role == "labelled" and not (volume.coverage == "sparse" and volume.annotated):
            check_annotated(volume.read_annotation(), volume.coverage or "dense", volume.path)
        with locked(self.path):
            self.refresh()
            entry = VolumeEntry(name=name, role=role)
            self._write_entries([entry if e.name == name else e for e in self._manifest.volumes])
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
        return self.path / "volumes" / f"{check_no_path(name)}.zarr"

    def check_new(self, name: str) -> None:
        """Refuse a name that is taken (on any file system) or no plain file name."""
        check_name(name)
        if same_file(name) in {same_file(known) for known in self.volumes}:
            raise ProjectError(
                f"volume {name!r} exists",
                "names are unique, whatever their case",
                "Choose another name",
                self.path,
            )

    def _list(self, entries: Sequence[VolumeEntry]) -> None:
        for entry in entries:
            self.check_new(entry.name)
        self._write_entries([*self._manifest.volumes, *entries])

    def _write_entries(self, entries: Sequence[VolumeEntry]) -> None:
        """Write the list of volumes; the caller holds the lock."""
        manifest = self._manifest.model_copy(update={"volumes": tuple(entries)})
        toml.write(self.path, manifest)
        self._take(manifest)

    def _take(self, manifest: Manifest) -> None:
        self._manifest, self._classes = manifest, manifest.table
        self._volumes = MappingProxyType(
            {
                v.name: Volume(self.volume_path(v.name), v.name, v.role, self._classes)
                for v in manifest.volumes
            }
        )


def locked(project: Path, patience: float = 10.0) -> Lock:
    """To hold while `project.toml` is changed; ProjectError if another does for longer than `patience` seconds."""
    rule = "one process changes a project at a time"
    return Lock(project, ".lock", patience=patience, error=ProjectError, rule=rule)


def _fill(folder: Path, classes: ClassTable, normalisation: Kind, preset: str | None) -> Manifest:
    entries = tuple(ClassEntry(name=c.name, source_id=c.source_id, colour=c.colour) for c in classes)
    manifest = Manifest(normalisation=normalisation, preset=preset, classes=entries)
    for name in ("volumes", "runs"):
        (folder / name).mkdir()
    toml.write(folder, manifest)
    return manifest


def _step_aside(path: Path) -> None:
    """Rename a folder that no manifest lists (a killed import's, or a stranger's): nothing is deleted."""
    number = 0
    while path.exists():
        number += 1
        other = path.with_name(f".{path.name}.unlisted-{number}")
        if not other.exists():
            path.rename(other)
