"""Names of volumes and maps: plain file names on every system, never a path."""

from __future__ import annotations

import re
from unicodedata import normalize

from napari_crln.errors import ProjectError

_NAME = re.compile(r"[^\W.][\w. +@=-]{0,126}[\w+-]|[^\W.]")
_MOST_BYTES = 200  # of the 255 that file systems take: the rest is for endings, and for what is written aside
#: Devices on Windows, whatever follows a dot.
_DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³]) *(?=\.|$)", re.IGNORECASE)


def check_name(name: str) -> str:
    """Refuse a name, of a new volume or map, that is no plain file name on every system."""
    check_no_path(name)
    if len(name.encode()) > _MOST_BYTES:
        raise ProjectError(
            f"volume name {name!r} of {len(name.encode())} bytes",
            f"a name takes at most {_MOST_BYTES} bytes in UTF-8, of which many letters take two or three",
            "Choose a shorter name",
        )
    if _DEVICES.match(name):
        raise ProjectError(
            f"volume name {name!r}", "Windows keeps such names for devices", "Choose another name"
        )
    return name


def check_no_path(name: str) -> str:
    """`check_name` as it was in the first versions: what a project lists already, it may keep."""
    if not _NAME.fullmatch(name):
        raise ProjectError(
            f"volume name {name!r}",
            "a name begins with a letter or digit and goes on with letters, digits, space or . _ + @ = -, "
            "at most 128 characters",
            "Choose another name",
        )
    return name


def same_file(name: str) -> str:
    """A key that is equal for names that some file system takes for one: whatever their case, composed or not."""
    return normalize("NFC", name).casefold()


def plain_name(text: str) -> str:
    """The nearest name that `check_name` takes: for what a person called a layer or a file."""
    kept = re.sub(r"[^\w. +@=-]+", "_", normalize("NFC", text))
    kept = _cut(re.sub(r"^[\W_]+", "", kept), _MOST_BYTES) or "volume"
    return _cut(_DEVICES.sub(r"\1_", kept, count=1), _MOST_BYTES) if _DEVICES.match(kept) else kept


def numbered(name: str, number: int) -> str:
    """A plain name with `-2`, `-3` … behind, cut so that it stays one."""
    ending = f"-{number}"
    return _cut(name, _MOST_BYTES - len(ending), 128 - len(ending)) + ending


def _cut(name: str, most_bytes: int, most: int = 128) -> str:
    """The beginning of a name, without half a letter or a space or dot at the end."""
    kept = name[:most].encode()[:most_bytes].decode(errors="ignore")
    return re.sub(r"[^\w+-]+$", "", kept)
