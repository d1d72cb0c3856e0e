"""A change of several stored files that takes effect whole, however the writer ends.

New files are first written as one journal, `<path>-<revision>`, an uncompressed zip: its rename is the moment at which
the change is made. Then they are laid out one by one, the one that tells the revision last, and synced, and the
journal goes. Whoever finds a journal of a writer that is gone lays it out again, which does no harm where it
was done: old voxels before the rename, new ones after it, never some of both.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from napari_crln import durable
from napari_crln.errors import CorruptData

#: Laid out last: the file that says which revision this is.
LAST = "zarr.json"
_ENTRY = re.compile(r"\d+/c(/\d+)+|zarr\.json", re.ASCII)


def commit(journal: Path, revision: int, files: Mapping[str, bytes]) -> None:
    """Write a journal, durably: from here on the change is made.

    Parameters
    ----------
    files : content by path relative to the folder that changes; `LAST` among them
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files, key=lambda name: name == LAST):
            archive.writestr(name, files[name])
    durable.replace(_at(journal, revision), content.getvalue())


def is_pending(journal: Path, revision: int) -> bool:
    """Whether a change to a later revision is made but perhaps not laid out."""
    return _at(journal, revision + 1).exists()


def revisions(journal: Path) -> list[int]:
    """Revisions of the journals that are there, oldest first."""
    stem = f"{journal.name}-"
    names = [entry.name for entry in journal.parent.iterdir() if entry.name.startswith(stem)]
    return sorted(int(end) for name in names if (end := name.removeprefix(stem)).isdecimal())


def lay_out(journal: Path, folder: Path, revision: int) -> None:
    """Put a journal's files into place; the caller holds the folder.

    Raises
    ------
    CorruptData
        If the journal is damaged.
    ProjectError
        If a link leads out of the folder.
    """
    for name, content in _files(_at(journal, revision)).items():
        path = folder / name
        durable.check_within(path.parent, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_bytes(content)
        new.replace(path)


def settle(journal: Path, folder: Path, revision: int) -> None:
    """Bring what was laid out to the disk, and remove the journal."""
    paths = [folder / name for name in _files(_at(journal, revision))]
    for path in [*paths, *{path.parent for path in paths}]:
        durable.sync(path)
    discard(journal, revision)


def discard(journal: Path, revision: int) -> None:
    """Remove a journal."""
    _at(journal, revision).unlink(missing_ok=True)


def _at(journal: Path, revision: int) -> Path:
    return journal.with_name(f"{journal.name}-{revision}")


#: What zipfile lets out of a damaged archive: wrong bytes, a cut end, or a header that claims encryption or another method.
_UNREADABLE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)


def _files(path: Path) -> dict[str, bytes]:
    """Content by name, in order; nothing that would be written elsewhere than into the folder."""
    content = io.BytesIO(path.read_bytes())  # so that what fails from here on is the archive's fault
    try:
        with zipfile.ZipFile(content) as archive:
            files = {info.filename: archive.read(info) for info in archive.infolist() if _is_plain(info)}
            if len(files) < len(archive.infolist()) or LAST not in files:
                raise zipfile.BadZipFile("entries that no writer makes")
            return files
    except _UNREADABLE as error:
        raise CorruptData(
            f"a damaged journal ({error})",
            "it is as its writer left it",
            "Delete it: the change is lost",
            path,
        ) from error


def _is_plain(info: zipfile.ZipInfo) -> bool:
    stored = info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
    return stored and _ENTRY.fullmatch(info.filename) is not None
