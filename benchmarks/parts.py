"""A folder as files of limited size, and back: to carry large checkpoints through places that take small files only."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

#: Bytes of a file, at most.
MOST = 15_000_000
_PART = re.compile(r"(.+)\.(\d{3})\.part")


def split_folder(source: Path, target: Path, most: int = MOST) -> None:
    """Make `target` a copy of `source` in which what is larger is cut; whole or not at all.

    A folder that `target` was is replaced; if the process is killed in between, `join_folder` finds the one or the
    other.
    """
    new, old = _beside(target, "new"), _beside(target, "old")
    shutil.rmtree(new, ignore_errors=True)
    for file in _files(source):
        data = (source / file).read_bytes()
        pieces = {file: data} if len(data) <= most else _cut(file, data, most)
        for name, piece in pieces.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(piece)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def join_folder(source: Path, target: Path) -> bool:
    """Put a split folder together as `target`, which must not exist; False where there is none."""
    if not source.exists():
        source = _beside(source, "old")
    if not source.exists():
        return False
    aside = _beside(target, "joining")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for file in _files(source):
        match = _PART.fullmatch(file.name)
        whole = aside / (file.with_name(match[1]) if match else file)
        whole.parent.mkdir(parents=True, exist_ok=True)
        with whole.open("ab") as joined:  # parts of a file come in their order
            joined.write((source / file).read_bytes())
    aside.rename(target)
    return True


def _files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _cut(file: Path, data: bytes, most: int) -> dict[Path, bytes]:
    starts = range(0, len(data), most)
    return {file.with_name(f"{file.name}.{k:03d}.part"): data[s : s + most] for k, s in enumerate(starts)}


def _beside(folder: Path, word: str) -> Path:
    return folder.with_name(f".{folder.name}.{word}")
