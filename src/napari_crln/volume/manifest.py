"""`project.toml`: the classes, the normalisation, and the volumes in order with their roles.

Read and written as a whole. Comments, unknown tables and unknown keys of a hand that edited the file are kept.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tomlkit.items import AoT

from napari_crln.durable import replacing
from napari_crln.errors import ProjectError
from napari_crln.small_file import read_small
from napari_crln.types import Role
from napari_crln.volume.intensity import Kind
from napari_crln.volume.labels import ClassTable, LabelClass
from napari_crln.volume.names import check_no_path

SCHEMA = 1
FILE = "project.toml"
_LIMIT = 1 << 26  # bytes of a manifest: a hundred times what ten thousand volumes take
ID_LIMIT = 1 << 62  # ids of classes lie between it and its negative
_HEAD = "A napari-crln project; format: docs/reference/project-folder.md of napari-crln."


class ClassEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(min_length=1)
    source_id: Annotated[int, Field(gt=-ID_LIMIT, lt=ID_LIMIT)]
    colour: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]


class VolumeEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    role: Role


class Manifest(BaseModel):
    """The content of `project.toml`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA
    normalisation: Kind
    #: Preset that new runs of this project begin with; none: sizes by the data.
    preset: str | None = None
    classes: tuple[ClassEntry, ...]
    volumes: tuple[VolumeEntry, ...] = ()

    @property
    def table(self) -> ClassTable:
        numbered = enumerate(self.classes)
        return ClassTable([LabelClass(i, c.name, c.colour, c.source_id) for i, c in numbered])


def read(project: Path) -> Manifest:
    """Read and check a project's manifest.

    Raises
    ------
    ProjectError
        If the folder is no project, or its manifest is malformed or of a newer schema.
    """
    path = project / FILE
    try:
        values = tomllib.loads(read_small(path, _LIMIT).decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ProjectError(
            "no project here",
            f"a project is a folder with {FILE}",
            "Choose one that has it, or make a project there",
            project,
        ) from None
    except OSError as error:
        raise ProjectError(
            f"cannot be read: {error.strerror}", "a project can be read", "Check its permissions", path
        ) from error
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, or no small file
        raise _malformed(path, f"not TOML: {error}") from error
    version = values.get("schema_version")
    if isinstance(version, int) and version > SCHEMA:
        raise ProjectError(
            f"schema {version}", f"this version reads up to {SCHEMA}", "Update napari-crln", path
        )
    return _validated(values, path)


def write(project: Path, manifest: Manifest) -> None:
    """Write the manifest, whole or not at all."""
    path = project / FILE
    document = tomlkit.parse(path.read_text("utf-8")) if path.exists() else _new_document()
    for key, value in manifest.model_dump(mode="json", exclude_none=True).items():
        if isinstance(value, list):
            _set_rows(document, key, value)
        elif document.get(key) != value:
            document[key] = value
    with replacing(path) as aside:
        aside.write_text(tomlkit.dumps(document), "utf-8")


def _new_document() -> tomlkit.TOMLDocument:
    document = tomlkit.document()
    document.add(tomlkit.comment(_HEAD))
    return document


def _set_rows(document: tomlkit.TOMLDocument, key: str, rows: list[dict[str, Any]]) -> None:
    """Make the tables of a key these rows, where they are: only values that are others now are changed, new rows follow.

    Rows that are in another order, or written as an array in one line, are written anew, with the keys that they had.
    """
    known = document.get(key, [])
    names = [table["name"] for table in known]
    if not isinstance(known, AoT) or names != [row["name"] for row in rows[: len(names)]]:
        former = {table["name"]: table.unwrap() for table in known}
        document[key] = tomlkit.aot()
        rows, known, names = [former.get(row["name"], {}) | row for row in rows], document[key], []
    for table, row in zip(known, rows, strict=False):
        for field, value in row.items():
            if table.get(field) != value:
                table[field] = value
    for row in rows[len(known) :]:
        table = tomlkit.table()
        table.update(row)
        if names:  # tomlkit parts new tables from each other, and not from those that were read
            known[-1].add(tomlkit.nl())
        known.append(table)


def _validated(values: dict[str, Any], path: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise _malformed(path, f"{field}: {first['msg']}") from error
    names = [check_no_path(volume.name).casefold() for volume in manifest.volumes]
    double = (
        next((name for name in names if names.count(name) > 1), None)
        if len(set(names)) < len(names)
        else None
    )
    if double is not None:
        raise _malformed(path, f"volume {double!r} is listed twice")
    return manifest


def _malformed(path: Path, value: str) -> ProjectError:
    return ProjectError(
        value, "it follows docs/reference/project-folder.md", "Mend it, or restore a copy", path
    )
