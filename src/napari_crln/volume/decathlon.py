"""A folder in the Medical Segmentation Decathlon or nnU-Net form, as a new project.

    dataset.json   classes ("labels": {"0": "background"} or {"background": 0}), optionally the lists of cases
    imagesTr/      training cases, `case.nii.gz` or nnU-Net's `case_0000.nii.gz`
    labelsTr/      their labels, `case.nii.gz`
    imagesTs/      test cases; labelsTs/, where it exists, is stored for evaluation only

The first N training cases become labelled, the last K validation, the others unlabelled, their labels
untouched. The project appears whole at the end, or not at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from napari_crln.errors import InvalidIntensity, InvalidLabel, UnreadableFile, UsageError
from napari_crln.types import AnyPath, Coverage, Role
from napari_crln.volume import store
from napari_crln.volume.atomic import creating_folder
from napari_crln.volume.imports import Case, case_name, load_case, where
from napari_crln.volume.intensity import Kind
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.manifest import VolumeEntry
from napari_crln.volume.project import Project

#: Called after each case with (cases done, cases in all, name of the case).
Progress = Callable[[int, int, str], None]
_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def import_decathlon(
    folder: AnyPath,
    project_path: AnyPath,
    labelled: int,
    validation: int = 0,
    progress: Progress | None = None,
    scheduler: str | None = None,
    normalisation: Kind = "zscore",
) -> Project:
    """Make a project from a Decathlon or nnU-Net folder.

    Parameters
    ----------
    folder : with dataset.json
    project_path : of the new project
    labelled : training cases, from the first, whose labels are taken for training
    validation : training cases, from the last, held out with their labels
    progress : called after each case
    scheduler : a Dask scheduler ("threads", "processes", or a distributed address); none: one after another

    Raises
    ------
    UsageError, ProjectError, VolumeError
        Whatever is wrong, no project comes into being.
    """
    folder, project_path = Path(folder), Path(project_path)
    store.check_free(project_path)
    description = _read_description(folder)
    classes, ignore = _classes(description, folder)
    cases = plan_cases(folder, description, labelled, validation, ignore)
    with creating_folder(project_path) as aside:
        draft = Project.fill_new(aside, classes, normalisation)
        _convert_all(partial(_convert, draft), cases, progress, scheduler)
        draft.register([VolumeEntry(name=case.name, role=case.role) for case in cases])
    return Project.open(project_path)


def plan_cases(
    folder: Path, description: dict[str, Any], labelled: int, validation: int, ignore: int | None = None
) -> list[Case]:
    """All cases of the folder in order, with roles and labels; nothing but names is read."""
    ending = str(description.get("file_ending", ".nii.gz"))
    training = _listed(folder, description, "training") or _found(folder / "imagesTr", ending)
    test = _listed(folder, description, "test") or _found(folder / "imagesTs", ending)
    _check_counts(labelled, validation, len(training), folder)
    coverage: Coverage = "dense" if ignore is None else "sparse"
    first_held_out = len(training) - validation
    cases = []
    for number, image in enumerate(training):
        role: Role = (
            "labelled" if number < labelled else "validation" if number >= first_held_out else "unlabelled"
        )
        label = None if role == "unlabelled" else _label(folder / "labelsTr", image, ending)
        cases.append(Case(_name(image), image, label, role, coverage, ignore))
    for image in test:
        label = _label(folder / "labelsTs", image, ending)
        found = label if label.exists() else None
        cases.append(Case(_name(image), image, found, "test", coverage, ignore))
    return _unique(cases, folder)


def _convert(project: Project, case: Case) -> str:
    image, annotation = load_case(case, project.classes)
    project.fill_volume(
        project.volume_path(case.name),
        case.name,
        image.voxels,
        image.grid,
        case.role,
        annotation,
        case.coverage,
        image.scaling,
        image.source,
        where=where(case),
    )
    return case.name


def _convert_all(
    convert: Callable[[Case], str], cases: Sequence[Case], progress: Progress | None, scheduler: str | None
) -> None:
    report = progress or (lambda done, total, name: None)
    names = map(convert, cases) if scheduler is None else _in_parallel(convert, cases, scheduler)
    for done, name in enumerate(names, start=1):
        report(done, len(cases), name)


def _in_parallel(convert: Callable[[Case], str], cases: Sequence[Case], scheduler: str) -> list[str]:
    """Convert by Dask; a distributed scheduler needs the project's folder on a shared file system."""
    import dask

    tasks = [dask.delayed(convert)(case) for case in cases]
    if "://" not in scheduler:
        return list(dask.compute(*tasks, scheduler=scheduler))
    from distributed import Client

    with Client(scheduler) as client:
        return list(client.gather(client.compute(tasks)))


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    try:
        description = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(
            "no dataset.json",
            "a Decathlon or nnU-Net folder has one",
            "Give the folder that holds it",
            folder,
        ) from None
    except ValueError as error:
        raise UnreadableFile(
            f"not JSON: {error}", "dataset.json is a JSON object", "Mend it", path
        ) from error
    if not isinstance(description, dict) or not isinstance(description.get("labels"), dict):
        raise UnreadableFile('no "labels"', "dataset.json names the classes", "Add them", path)
    return description


def _classes(description: dict[str, Any], folder: Path) -> tuple[ClassTable, int | None]:
    """Class table, and the id of nnU-Net's "ignore" class, where nobody annotated."""
    labels: dict[str, Any] = description["labels"]
    turned = all(key.lstrip("-").isdigit() for key in labels)
    pairs = [(str(value), key) if turned else (key, value) for key, value in labels.items()]
    try:
        ids = {name: int(number) for name, number in pairs}
    except (TypeError, ValueError):
        raise InvalidLabel(
            f"labels {labels}",
            "each class has one integer id (regions of several ids are not supported)",
            "Write one id a class",
            folder / "dataset.json",
        ) from None
    ignore = ids.pop("ignore", None)
    ordered = sorted(ids.items(), key=lambda item: (item[1] != 0, item[1]))
    return ClassTable.from_ids(dict(ordered)), ignore


def _listed(folder: Path, description: dict[str, Any], key: str) -> list[Path]:
    """Images listed in dataset.json: objects with "image", or bare paths; a channel suffix may be left out."""
    entries = description.get(key) or []
    named = [entry["image"] if isinstance(entry, dict) else entry for entry in entries]
    return [_with_channel(folder / str(name)) for name in named]


def _with_channel(path: Path) -> Path:
    """The file, or nnU-Net's first channel of it where only that exists."""
    ending = path.name[len(case_name(path)) :]
    channel = path.with_name(f"{case_name(path)}_0000{ending}")
    return channel if channel.exists() and not path.exists() else path


def _found(folder: Path, ending: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.endswith(ending) and not p.name.startswith("."))


def _name(image: Path) -> str:
    """Case name: without extension and single channel suffix."""
    match = _CHANNEL.match(case_name(image))
    return match["case"] if match and match["channel"] == "0000" else case_name(image)


def _label(folder: Path, image: Path, ending: str) -> Path:
    return folder / f"{_name(image)}{ending}"


def _unique(cases: list[Case], folder: Path) -> list[Case]:
    """Refuse several channels of a case, and a case that is listed twice."""
    names = {case.name for case in cases}
    for case in cases:
        match = _CHANNEL.match(case.name)
        if match and match["case"] in names:
            raise InvalidIntensity(
                f"channel {match['channel']} of case {match['case']}",
                "an image has one channel",
                "Keep the files of one channel, _0000, only",
                case.image,
            )
    if len(names) < len(cases):
        double = next(c.name for i, c in enumerate(cases) if c.name in {other.name for other in cases[:i]})
        raise UsageError(f"case {double} occurs twice", "case names are unique", "Rename one", folder)
    return cases


def _check_counts(labelled: int, validation: int, training: int, folder: Path) -> None:
    if training == 0:
        raise UsageError(
            "no training cases", "imagesTr or dataset.json names them", "Check the folder", folder
        )
    if labelled < 0 or validation < 0 or labelled + validation > training:
        raise UsageError(
            f"{labelled} labelled and {validation} validation cases",
            f"together they are at most the {training} training cases",
            "Ask for fewer",
            folder,
        )
