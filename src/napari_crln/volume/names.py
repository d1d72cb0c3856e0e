"""Names of volumes and maps: plain file names on every system, never a path."""

from __future__ import annotations

import re

from napari_crln.errors import ProjectError

_NAME = re.compile(r"[^\W.][\w. +@=-]{0,126}[\w+-]|[^\W.]")


def check_name(name: str) -> str:
    """Refuse a volume name that is no plain file name on every system."""
    if not _NAME.fullmatch(name):
        raise ProjectError(
            f"volume name {name!r}",
            "a name begins with a letter or digit and goes on with letters, digits, space or . _ + @ = -, "
            "at most 128 characters",
            "Choose another name",
        )
    return name


def plain_name(text: str) -> str:
    """The nearest name that `check_name` takes: for what a person called a layer or a file."""
    kept = re.sub(r"[^\w. +@=-]+", "_", text)
    kept = re.sub(r"^[\W_]+", "", kept)[:128]
    return re.sub(r"[^\w+-]+$", "", kept) or "volume"
