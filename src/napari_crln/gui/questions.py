"""What a user is asked before something is done: what will happen, and where the old is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from napari_crln.errors import FilesExist
from napari_crln.gui.model import Snapshot, VolumeRow
from napari_crln.types import Role
from napari_crln.volume.accept import HISTORY, Plane

_AXES = ("D (z)", "H (y)", "W (x)")


@dataclass(frozen=True)
class Question:
    """A question to answer with yes or no.

    Parameters
    ----------
    yes : what the button says that does it
    """

    title: str
    text: str
    details: str
    yes: str


def before_accepting(row: VolumeRow, plane: Plane | None) -> Question:
    """Whether a prediction shall become an annotation."""
    what = "all of it" if plane is None else f"slice {plane.index} along {_AXES[plane.axis]}"
    return Question(
        "Accept as annotation",
        f"Make the prediction of {row.name}, {what}, its annotation?",
        " ".join([_what_happens(row, plane), _what_is_kept(row), *_new_role(row)]),
        "Accept",
    )


def before_overwriting(folder: Path, error: FilesExist) -> Question:
    """Whether an export shall write over files."""
    return Question(
        "Export predictions",
        f"Write over files in {folder}?",
        f"{error.value[0].upper()}{error.value[1:]}; what they hold now is lost.",
        "Overwrite",
    )


def before_role(now: Snapshot, role: Role) -> Question | None:
    """Whether a volume that measures models shall be trained on, or the other way round; None where nothing is lost."""
    row = now.shown_row
    if row is None or row.role == role:
        return None
    held_out = ("validation", "test")
    if row.role in held_out and role not in held_out:
        says = f"From then on its {'labels are' if role == 'labelled' else 'image is'} trained on, and it measures nothing."
    elif role in held_out and row.role not in held_out and now.project is not None and now.project.runs:
        says = "Runs that were trained so far have seen it: it measures later ones only."
    else:
        return None
    return Question("Change role", f"Make {row.name} a volume of role {role}?", says, "Change")


def _what_happens(row: VolumeRow, plane: Plane | None) -> str:
    if plane is None:
        return f"Every voxel of its {' × '.join(map(str, row.shape))} then counts as annotated by you."
    return "That slice then counts as annotated by you; other slices stay as they are."


def _what_is_kept(row: VolumeRow) -> str:
    if row.coverage is None:
        return "It has no annotation so far; Restore takes this one back."
    place = f"{row.name}.zarr/{HISTORY}/annotation-{row.revision}"
    return f"Its annotation so far ({row.coverage}, revision {row.revision}) is kept in {place}; Restore brings it back."


def _new_role(row: VolumeRow) -> list[str]:
    return (
        ["It is unlabelled and becomes labelled: training learns from it."]
        if row.role == "unlabelled"
        else []
    )
