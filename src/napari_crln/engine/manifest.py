"""The manifest of a checkpoint: size and SHA-256 of each file, and a digest of the manifest itself.

Each file is opened once, without following links, and read whole; the same bytes are then checked and
parsed, so nothing can change in between.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_crln.errors import CorruptCheckpoint

MANIFEST_FILE = "manifest.json"
_NAME = re.compile(r"[a-z][a-z0-9_]*\.(safetensors|json)")
_STEP_FOLDER = re.compile(r"\.?(?:replaced-)?step-(\d+)")


def make(files: Mapping[str, bytes], *, schema_version: int, step: int, best: bool) -> bytes:
    """Manifest of these files as JSON."""
    listed = {name: {"size": len(data), "sha256": _sha256(data)} for name, data in files.items()}
    record = {"schema_version": schema_version, "step": step, "best": best, "files": listed}
    return json.dumps({**record, "digest": _digest(record)}, indent=1).encode()


def read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest of a checkpoint folder, and the checked bytes of the files that it lists.

    Raises
    ------
    CorruptCheckpoint
        If anything is missing, a link, or not as the manifest says; the message names the file.
    """
    record = _read_manifest(folder)
    return record, {name: _checked(folder / name, entry) for name, entry in record["files"].items()}


def verifies(folder: Path) -> bool:
    """Whether every file is what the manifest says."""
    try:
        read(folder)
    except CorruptCheckpoint:
        return False
    return True


def peek(folder: Path) -> dict[str, Any]:
    """The manifest alone, the listed files not read; empty if it is missing or damaged."""
    try:
        return _read_manifest(folder)
    except CorruptCheckpoint:
        return {}


def read_bytes(path: Path) -> bytes:
    """Bytes of a regular file; a link or a special file is refused, unopened."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise corrupt(path, "not a regular file")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        return file.read()


def corrupt(path: Path, value: str) -> CorruptCheckpoint:
    """The error for one damaged file."""
    return CorruptCheckpoint(
        value, "a checkpoint is read only if it matches its manifest", "Use an older checkpoint", path
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_FILE
    if folder.is_symlink():
        raise corrupt(folder, "a link")
    data = _read_present(path)
    try:
        record = dict(json.loads(data))
        digest = record.pop("digest")
        whole = bool(digest == _digest(record)) and all(map(_NAME.fullmatch, record["files"]))
        record["schema_version"], record["step"] = int(record["schema_version"]), int(record["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise corrupt(path, f"not a manifest: {error!r}") from error
    if not whole or not _of_step(folder, record["step"]):
        raise corrupt(path, "does not match its own digest or its folder")
    return record


def _of_step(folder: Path, step: int) -> bool:
    """Whether the folder's name, if it is one of ours, says the same step."""
    match = _STEP_FOLDER.fullmatch(folder.name)
    return match is None or int(match[1]) == step


def _checked(path: Path, entry: Mapping[str, Any]) -> bytes:
    data = _read_present(path)
    if len(data) != entry["size"]:
        raise corrupt(path, f"{len(data)} bytes instead of {entry['size']}")
    if _sha256(data) != entry["sha256"]:
        raise corrupt(path, "its SHA-256 differs from the manifest's")
    return data


def _read_present(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise corrupt(path, f"unreadable ({error.strerror})") from error


def _digest(record: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(record, sort_keys=True).encode())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
