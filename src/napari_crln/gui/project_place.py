"""Where a project goes: what a user chose, or a folder of their home, under a name that is free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import Path

from napari_crln.volume.names import plain_name

SUFFIX = ".crln"


def project_folder(chosen: str) -> Path:
    """The folder that was chosen in a dialog, which ends with `.crln`; a dot in its name cuts nothing off."""
    path = Path(chosen)
    return path if path.suffix.lower() == SUFFIX else path.with_name(path.name + SUFFIX)


def projects_folder() -> Path:
    """`crln-projects` in the user's home; it need not exist."""
    return Path.home() / "crln-projects"


def name_for(volumes: Sequence[str]) -> str:
    """What the names of the volumes begin with, without digits and separators at its end; else "project"."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*volumes, strict=False))
    shared = re.sub(r"[\W\d_]+$", "", "".join(letters[0] for letters in alike))
    return plain_name(shared) if len(shared) > 1 else "project"


def free_folder(home: Path, name: str) -> Path:
    """`<home>/<name>.crln`, or the first of `-2`, `-3`, … that does not exist."""
    numbered = (f"{name}.crln" if number == 1 else f"{name}-{number}.crln" for number in count(1))
    return next(home / each for each in numbered if not (home / each).exists())
