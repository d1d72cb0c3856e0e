"""Every exception that a user can meet. Each says, in one line, the value, the rule and the remedy.

The command line prints `str(error)` and leaves with `error.exit_code`; the panel shows the same line.
Programming mistakes keep Python's own exceptions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class CrlnError(Exception):
    """A fault that a user can mend.

    Parameters
    ----------
    value : what was found, the offending value included
    rule : what holds instead
    remedy : what to do about it
    where : file, volume, field or command concerned
    """

    exit_code = 1

    def __init__(self, value: str, rule: str, remedy: str, where: str | Path | None = None) -> None:
        self.value, self.rule, self.remedy = _line(value), _line(rule), _line(remedy)
        self.where = None if where is None else _line(str(where))
        prefix = f"{self.where}: " if self.where else ""
        super().__init__(f"{prefix}{self.value}; {self.rule}. {self.remedy}")

    def __reduce__(self) -> tuple[type[CrlnError], tuple[Any, ...]]:
        return type(self), (self.value, self.rule, self.remedy, self.where)


def _line(text: str) -> str:
    """On one line: what other libraries say, and file names, may hold line breaks."""
    return " ".join(text.split())


class UsageError(CrlnError):
    """An option or argument that cannot be meant."""

    exit_code = 2


class FilesExist(UsageError):
    """Files that would be written exist; asked for, they are written over."""


class ConfigError(CrlnError):
    """A configuration that is malformed, or that may not change on resume."""

    exit_code = 2


class VolumeError(CrlnError):
    """An image or label that cannot be taken as it is."""

    exit_code = 3


class UnreadableFile(VolumeError):
    """A file that is truncated, corrupt, or of no known format."""


class GridMismatch(VolumeError):
    """Shape, affine or spacing of an image and its label disagree, or make no sense."""


class InvalidIntensity(VolumeError):
    """NaN or infinite voxels, a constant image, colour or 4D data."""


class InvalidLabel(VolumeError):
    """Unknown class ids, non-integer labels, or an empty label where one is needed."""


class ProjectError(CrlnError):
    """A project folder that is missing, taken, locked, of another schema, or lacks what is asked for."""

    exit_code = 4


class CorruptData(ProjectError):
    """Stored data fails its checksum, or a chunk is gone."""


class RunError(CrlnError):
    """A run folder that is missing, taken, locked, unfinished, or from an incompatible version."""

    exit_code = 5


class CorruptCheckpoint(RunError):
    """A checkpoint whose bytes do not match its manifest."""


class TrainingDiverged(RunError):
    """Loss or gradient became NaN or infinite; the last good state is saved."""

    exit_code = 6


class OutOfMemory(RunError):
    """The device or the machine has too little memory; the remedy names a size that fits."""

    exit_code = 7


class OutOfSpace(CrlnError):
    """The disk is full; the message says what is needed and what is free."""

    exit_code = 8
