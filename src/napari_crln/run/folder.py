"""Run folders: `runs/<date>-<name>/` of a project, made whole or not at all, never overwritten.

Which run is newer is decided by the ordinal in its record, one more than the largest so far, not by clock
or modification time, which copying and a wrong clock change. What a run has come to is read from its
events and its lock, so anybody may ask, also while it trains.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_crln import config as configuration
from napari_crln import durable
from napari_crln.config import RunConfig
from napari_crln.errors import ProjectError, RunError, UsageError
from napari_crln.events import CHECKPOINTS, CONFIG_FILE, ENVIRONMENT_FILE, EVENTS_FILE, INBOX
from napari_crln.lock import exclusive_folder, holder
from napari_crln.run.environment import environment
from napari_crln.run.status import RunStatus, read_status

RUNS = "runs"
SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class RunFolder:
    """A run's folder. Make one by `create`, or take an existing one by `open`.

    Parameters
    ----------
    path : the folder
    ordinal : position in the project's order of creation, from 1
    """

    path: Path
    ordinal: int

    @classmethod
    def create(cls, project_path: Path, config: RunConfig, name: str | None = None) -> RunFolder:
        """Make the folder of a new run, with its configuration and environment.

        Parameters
        ----------
        name : letters, digits, `.`, `_`, `-`; none: the method's name. `-2`, `-3`, … is added where taken.

        Raises
        ------
        ProjectError
            If there is no project at that path.
        OutOfSpace
            If the disk is full.
        """
        given = _checked_name(name or config.method.name)
        if not project_path.is_dir():
            raise ProjectError(
                "no such project", "a run belongs to a project folder", "Make one with init", project_path
            )
        folder = project_path / RUNS
        durable.check_within(folder, project_path)
        folder.mkdir(exist_ok=True)
        with exclusive_folder(folder):
            ordinal = 1 + max((run.ordinal for run in _existing(folder)), default=0)
            path = _free(folder, f"{time.strftime('%Y-%m-%d')}-{given}")
            return cls(_make(path, config, {"ordinal": ordinal, "name": given}), ordinal)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run in an existing folder.

        Raises
        ------
        RunError
            If it is no run folder, or a newer version made it.
        """
        record = _record(path)
        if record["schema_version"] > SCHEMA:
            raise RunError(
                f"schema {record['schema_version']}",
                f"this version reads up to schema {SCHEMA}",
                "Update napari-crln",
                path,
            )
        return cls(path, record["ordinal"])

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def given_name(self) -> str:
        """The folder's name without its date, and without the number that was added where the name was taken."""
        undated = self.name[len("2000-01-01-") :]
        stem, _, number = undated.rpartition("-")
        if not stem or not number.isdecimal():
            return undated
        given = _record(self.path)["name"]
        if given is None:  # an older version's: then another run has the name without the number
            taken = self.path.with_name(self.name.removesuffix(f"-{number}")).exists()
            return stem if taken else undated
        return stem if given == stem else undated

    @property
    def events(self) -> Path:
        return self.path / EVENTS_FILE

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def config(self) -> RunConfig:
        """The configuration that the run was made with.

        Raises
        ------
        ConfigError
            If `config.toml` is not valid.
        """
        return configuration.load(self.path / CONFIG_FILE)

    def status(self) -> RunStatus:
        """What the run has come to, by its events and its lock; reads the whole log once."""
        named = holder(self.path)
        return read_status(self.events, alive=False if named is None else named.alive())


def runs(project_path: Path) -> list[RunFolder]:
    """The project's runs in order of creation; what is no run folder is left out."""
    return sorted(_existing(project_path / RUNS), key=lambda run: (run.ordinal, run.name))


def newest_finished(project_path: Path) -> RunFolder | None:
    """The run created last among those that reached their end; None if there is none."""
    for run in reversed(runs(project_path)):
        if run.status().reason == "finished":
            return run
    return None


def _existing(folder: Path) -> Iterator[RunFolder]:
    for path in folder.iterdir() if folder.is_dir() else ():
        if not path.name.startswith("."):
            try:
                yield RunFolder(path, _record(path)["ordinal"])
            except RunError:
                continue


def _record(path: Path) -> dict[str, Any]:
    file = path / ENVIRONMENT_FILE
    try:
        record = json.loads(file.read_text("utf-8"))
        return {key: int(record[key]) for key in ("schema_version", "ordinal")} | {"name": record.get("name")}
    except OSError as error:
        raise RunError(
            "not a run folder", f"a run folder holds {ENVIRONMENT_FILE}", "Check the path", path
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"unreadable record: {error!r}", "it is JSON with an ordinal", "Restore it from a copy", file
        ) from error


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"run name {name!r}",
            "a name is letters, digits, '.', '_' and '-', at most 100, and starts with a letter or digit",
            "Choose another",
            "--name",
        )
    return name


def _free(folder: Path, stem: str) -> Path:
    path, count = folder / stem, 2
    while path.exists() or path.is_symlink():
        path, count = folder / f"{stem}-{count}", count + 1
    return path


def _make(path: Path, config: RunConfig, identity: dict[str, Any]) -> Path:
    """Write the folder aside and rename it; the caller holds the runs folder."""
    record = {"schema_version": SCHEMA, **identity, **environment()}
    with durable.creating_folder(path, needed=1 << 16) as aside:
        (aside / INBOX).mkdir()
        (aside / CONFIG_FILE).write_bytes(configuration.dumps(config).encode())
        (aside / ENVIRONMENT_FILE).write_text(json.dumps(record, indent=1), "utf-8")
    return path
