"""Read the `suggestions.json` of a run folder, while the engine replaces it from time to time."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from napari_crln.errors import RunError
from napari_crln.events import SUGGESTIONS_FILE
from napari_crln.suggestions import SCHEMA, Suggestions


def read_suggestions(folder: Path) -> Suggestions | None:
    """The newest suggestions of a run; None if there are none yet.

    Raises
    ------
    RunError
        If the file is damaged, or a newer version wrote it.
    """
    path = folder / SUGGESTIONS_FILE
    try:
        found = Suggestions.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(
            f"unreadable: {reason}", "suggestions are JSON as the engine writes it", "Suggest again", path
        ) from error
    if found.schema_version > SCHEMA:
        raise RunError(
            f"suggestions of schema {found.schema_version}",
            f"this version reads up to schema {SCHEMA}",
            "Update napari-crln",
            path,
        )
    return found


def stamp(folder: Path) -> tuple[int, int] | None:
    """What changes when the suggestions do; None if there are none."""
    try:
        status = (folder / SUGGESTIONS_FILE).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
