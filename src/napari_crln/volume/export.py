"""Predictions and annotations as NIfTI, on their sources' grids, with the sources' affines and the user's ids.

All files are planned, and the plan refused, before the first is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from napari_crln.errors import FilesExist, ProjectError, UsageError
from napari_crln.types import NOT_ANNOTATED
from napari_crln.volume.labels import ClassTable, smallest_dtype
from napari_crln.volume.names import same_file
from napari_crln.volume.nifti import write_ids, write_labels
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume

Content = Literal["prediction", "annotation"]
_USUAL_IGNORE = 255


class Export(NamedTuple):
    """One file to write."""

    volume: Volume
    content: Content
    path: Path


def plan_export(
    project: Project, folder: Path, content: Content, names: Sequence[str] = (), *, overwrite: bool = False
) -> list[Export]:
    """What will be written: the named volumes, or all that have such labels. Makes the folder.

    Raises
    ------
    ProjectError
        If a named volume, or every volume, lacks them.
    UsageError, FilesExist
        As of `nifti_files`.
    """
    named = [project.volume(name) for name in dict.fromkeys(names)]
    volumes = [v for v in named or project.volumes.values() if named or _has(v, content)]
    lacking = next((v for v in named if not _has(v, content)), None)
    if lacking is not None or not volumes:
        raise ProjectError(
            f"no {content}" + ("" if lacking is None else f" of {lacking.name!r}"),
            "what is exported is in the project",
            "Predict first" if content == "prediction" else "Annotate first",
            project.path,
        )
    files = nifti_files(volumes, folder, overwrite=overwrite)
    return [Export(volume, content, files[volume.name]) for volume in volumes]


def nifti_files(volumes: Sequence[Volume], folder: Path, *, overwrite: bool = False) -> dict[str, Path]:
    """NIfTI file of each volume, by the volume's name; makes the folder.

    Raises
    ------
    UsageError
        If two volumes came from files of the same name, whatever its case.
    FilesExist
        If a file exists and `overwrite` is off.
    """
    files = {volume.name: folder / nifti_name(volume) for volume in volumes}
    counts = Counter(same_file(path.name) for path in files.values())
    double = [path for path in files.values() if counts[same_file(path.name)] > 1]
    if double:
        raise UsageError(
            "two volumes came from files of this name",
            "a result bears its source's file name, of which case does not tell two apart on every system",
            "Write them into two folders, volume by volume",
            double[0],
        )
    found = [path for path in files.values() if path.exists()]
    if found and not overwrite:
        raise FilesExist(
            f"{len(found)} of {len(files)} files that would be written {'exists' if len(found) == 1 else 'exist'}",
            "nothing is overwritten unasked",
            "Choose another folder, or ask to overwrite (in the shell: --overwrite)",
            found[0],
        )
    folder.mkdir(parents=True, exist_ok=True)
    return files


def write_export(export: Export, *, overwrite: bool = False) -> None:
    """Write one file; a sparse annotation's voxels that nobody annotated get `ignore_id`."""
    volume, content, path = export
    if content == "prediction":
        write_labels(path, volume.read_prediction(), volume.source, volume.classes, overwrite=overwrite)
        return
    annotation = volume.read_annotation()
    missing = annotation == NOT_ANNOTATED
    if not missing.any():
        write_labels(path, annotation - 1, volume.source, volume.classes, overwrite=overwrite)
        return
    known = volume.classes.decode(np.where(missing, 0, annotation - 1))
    unknown = ignore_id(volume.classes)
    dtype = np.promote_types(known.dtype, smallest_dtype(np.array([0, unknown])))
    ids = np.where(missing, unknown, known).astype(dtype)
    write_ids(path, ids, volume.source, overwrite=overwrite)


def ignore_id(classes: ClassTable) -> int:
    """Id of voxels that nobody annotated: 255, or the first above the classes' ids if one of them is as large."""
    highest = max(each.source_id for each in classes)
    return _USUAL_IGNORE if highest < _USUAL_IGNORE else highest + 1


def nifti_name(volume: Volume) -> str:
    """Name of the file that a volume came from; its own, with `.nii.gz`, if it came from no NIfTI file."""
    name = volume.source.name
    return name if name.lower().endswith((".nii", ".nii.gz")) else f"{volume.name}.nii.gz"


def _has(volume: Volume, content: Content) -> bool:
    return volume.has_prediction if content == "prediction" else volume.has_annotation
