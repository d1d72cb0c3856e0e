"""What `evaluate` scores: the predictions that a project holds, or two folders of NIfTI files.

Cases are read one at a time. The predictions of one evaluation come from one run at one step: a mixture would
be a result of nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_crln.engine.evaluate import Case, Evaluation, evaluate
from napari_crln.errors import ProjectError, UsageError
from napari_crln.types import Role
from napari_crln.volume.checks import check_same_grid
from napari_crln.volume.decathlon import read_classes, read_ignore
from napari_crln.volume.geometry import Grid
from napari_crln.volume.imports import case_name
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.nifti import read_label
from napari_crln.volume.project import Project
from napari_crln.volume.stored import Volume

_ENDINGS = (".nii", ".nii.gz")
#: Behind a case's name in nnU-Net's images, and so in predictions, which are named as these; labels have none.
_CHANNEL = "_0000"


@dataclass(frozen=True)
class Scored:
    """An evaluation and where it comes from.

    Parameters
    ----------
    origin : JSON-ready: run, step, clues …, or the folders
    title : the same for people, on one line
    colours : `#rrggbb` by class name
    notes : what was left out, for people
    """

    evaluation: Evaluation
    origin: dict[str, Any]
    title: str
    colours: dict[str, str]
    notes: list[str] = field(default_factory=list)


def of_project(
    project: Project, role: Role | None = None, run: str | None = None, labels: Path | None = None
) -> Scored:
    """Score the predictions that a project's volumes hold.

    Parameters
    ----------
    role : of the volumes; none: all that have a prediction
    run : name of the run that must have made them; none: any one
    labels : folder with the truth, files named as the sources; none: the project's own annotations. Voxels with the
        "ignore" of a dataset.json beside it are left out

    Raises
    ------
    ProjectError
        If a volume of the role has no prediction, or they are of several runs, or not of the one asked for.
    """
    volumes = project.with_role(role) if role is not None else list(project.volumes.values())
    volumes = volumes if role is not None else [v for v in volumes if v.has_prediction]
    _check_predicted(volumes, project)
    origin = _one_origin(volumes, run, project)
    files = {} if labels is None else _files(labels)
    ignore = None if labels is None else read_ignore(_around(labels))
    cases = (case_of(volume, files, ignore) for volume in volumes)
    clues = "with" if origin.get("clues") else "without"
    title = f"{origin.get('run', 'unknown run')} at iteration {origin.get('step', '?')}, {clues} clues"
    return Scored(evaluate(cases, project.classes.names), origin, title, _colours(project.classes))


def of_folders(predictions: Path, labels: Path, classes: ClassTable | None = None) -> Scored:
    """Score NIfTI files against those of the same names, on the same grids; a channel's `_0000` is no part of a name.

    Parameters
    ----------
    classes : of a project; none: those of a dataset.json beside `labels`, or the ids that the files hold

    Raises
    ------
    UsageError : no prediction has a label
    UnreadableFile, InvalidLabel, GridMismatch
    """
    found, truths = _files(predictions), _files(labels)
    exact = {name: path for name, path in found.items() if name in truths}
    named = {name.removesuffix(_CHANNEL): path for name, path in found.items() if name not in exact} | exact
    paired = sorted(named.keys() & truths.keys())
    if not paired:
        raise UsageError(
            f"none of {len(found)} predictions has a label in {labels}",
            f"files are matched by name, of predictions also without {_CHANNEL}",
            "Check the folders",
            predictions,
        )
    table = classes or _table_of(labels, [files[name] for name in paired for files in (named, truths)])
    ignore = read_ignore(_around(labels))
    notes = [
        f"{len(found) - len(paired)} predictions have no label" if len(found) > len(paired) else "",
        f"{len(truths) - len(paired)} labels have no prediction and are not counted"
        if len(truths) > len(paired)
        else "",
    ]
    cases = (_pair(name, named[name], truths[name], table, ignore) for name in paired)
    return Scored(
        evaluate(cases, table.names),
        {"predictions": str(predictions), "labels": str(labels)},
        f"{predictions} against {labels}",
        _colours(table),
        [note for note in notes if note],
    )


def case_of(
    volume: Volume, files: Mapping[str, Path] = MappingProxyType({}), ignore: int | None = None
) -> Case:
    """A volume's prediction with its truth: of the file that bears its name, else its own annotation, else none.

    Parameters
    ----------
    ignore : id in the files where nobody annotated
    """
    truth = None
    if files:
        source = case_name(Path(volume.source.name))
        names = (source, volume.name, source.removesuffix(_CHANNEL), volume.name.removesuffix(_CHANNEL))
        path = next((files[name] for name in names if name in files), None)
        truth = None if path is None else _truth(path, volume.grid, volume.classes, ignore)
    elif volume.has_annotation:
        truth = volume.read_targets()
    return Case(volume.name, volume.read_prediction(), truth, volume.grid.spacing)


def _pair(name: str, prediction: Path, label: Path, table: ClassTable, ignore: int | None) -> Case:
    found = read_label(prediction)
    indices = table.targets(table.encode(found.voxels, where=prediction)).astype(table.index_dtype)
    return Case(name, indices, _truth(label, found.grid, table, ignore), found.grid.spacing)


def _truth(path: Path, grid: Grid, table: ClassTable, ignore: int | None) -> NDArray[np.int16]:
    label = read_label(path)
    check_same_grid(grid, label.grid, path)
    return table.targets(table.encode(label.voxels, ignore=ignore, where=path))


def _around(folder: Path) -> Path:
    """The folder that a folder lies in, where a data set has its dataset.json; `.` is written without it."""
    return folder.absolute().parent


def _files(folder: Path) -> dict[str, Path]:
    """NIfTI files of a folder by case name."""
    if not folder.is_dir():
        raise UsageError("no such folder", "it holds NIfTI files", "Check the path", folder)
    paths = [p for p in folder.iterdir() if p.name.lower().endswith(_ENDINGS) and not p.name.startswith(".")]
    named = {case_name(path): path for path in paths}
    if len(named) < len(paths) or not named:
        what = "two files of one name, .nii and .nii.gz" if named else "no NIfTI file"
        raise UsageError(what, "each case is one .nii or .nii.gz file", "Check the folder", folder)
    return named


def _table_of(labels: Path, files: Sequence[Path]) -> ClassTable:
    """Classes of a Decathlon dataset.json beside the folder, else numbered by the ids that occur."""
    if (_around(labels) / "dataset.json").exists():
        return read_classes(_around(labels))
    seen: set[int] = {0}
    for path in files:
        seen.update(np.unique(read_label(path).voxels).tolist())
    return ClassTable.from_ids(
        {"background" if n == 0 else f"class {n}": n for n in sorted(seen, key=lambda n: (n != 0, n))}
    )


def _check_predicted(volumes: Sequence[Volume], project: Project) -> None:
    missing = [volume.name for volume in volumes if not volume.has_prediction]
    if missing or not volumes:
        what = f"{len(missing)} of {len(volumes)} volumes, such as {missing[0]}," if missing else "no volume"
        raise ProjectError(
            f"{what} without a prediction" if missing else "no volume to score",
            "predictions are scored once made",
            "Make them by napari-crln predict, with the same --role",
            project.path,
        )


def _one_origin(
    volumes: Iterator[Volume] | Sequence[Volume], run: str | None, project: Project
) -> dict[str, Any]:
    """Attributes that all predictions share: run, step, checkpoint, clues."""
    origins = {json.dumps(v.prediction_attributes, sort_keys=True): v.prediction_attributes for v in volumes}
    found = list(origins.values())
    made_by = ", ".join(f"{o.get('run', '?')} at {o.get('step', '?')}" for o in found[:3])
    if len(found) > 1:
        raise ProjectError(
            f"predictions of several runs or settings: {made_by}",
            "one evaluation is of one",
            "Predict all these volumes by one run",
            project.path,
        )
    if run is not None and found[0].get("run") != run:
        raise ProjectError(
            f"the predictions are by {made_by}",
            f"--run asks for {run}",
            f"Make them first: napari-crln predict {project.path} --run {run}",
            project.path,
        )
    return found[0]


def _colours(classes: ClassTable) -> dict[str, str]:
    return {c.name: c.colour for c in classes}
