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
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unicodedata import normalize

from napari_crln.durable import check_free, creating_folder
from napari_crln.errors import InvalidIntensity, InvalidLabel, UnreadableFile, UsageError
from napari_crln.small_file import read_small
from napari_crln.types import AnyPath, Role
from napari_crln.volume.imports import Case, case_name, load_case
from napari_crln.volume.incoming import store_incoming
from napari_crln.volume.intensity import DEFAULT_KIND, Kind
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.manifest import VolumeEntry
from napari_crln.volume.names import check_name, same_file
from napari_crln.volume.project import Project

#: Called after each case with (cases done, cases in all, name of the case).
Progress = Callable[[int, int, str], None]
_CHANNEL = re.compile(r".+_\d{4}$")
_LIMIT = 1 << 26  # bytes of a dataset.json
_LABELS = ("labelsTr", "labelsTs")
_ENDINGS = (".nii.gz", ".nii")


def import_decathlon(
    folder: AnyPath,
    project_path: AnyPath,
    labelled: int,
    validation: int = 0,
    progress: Progress | None = None,
    *,
    scheduler: str | None = None,
    normalisation: Kind = DEFAULT_KIND,
) -> Project:
    """Make a project from a Decathlon or nnU-Net folder.

    Parameters
    ----------
    folder : with dataset.json
    project_path : of the new project
    labelled : training cases, from the first, whose labels are taken for training
    validation : training cases, from the last, held out with their labels
    progress : called after each case
    scheduler : a Dask scheduler ("threads", "processes", or an address, which takes the extra `cluster`); none: one
        after another

    Raises
    ------
    UsageError, ProjectError, VolumeError
        Whatever is wrong, no project comes into being.
    """
    folder, project_path = Path(folder), Path(project_path)
    check_free(project_path)
    _check_scheduler(scheduler)
    description = _read_description(folder)
    classes, ignore = _classes(description, folder)
    cases = plan_cases(folder, description, labelled, validation, ignore)
    with creating_folder(project_path) as aside:
        draft = Project.fill_new(aside, classes, normalisation)
        _convert_all(partial(_convert, draft), cases, progress, scheduler)
        draft.register([VolumeEntry(name=case.name, role=case.role) for case in cases])
    return Project.open(project_path)


def read_classes(folder: AnyPath) -> ClassTable:
    """The class table of a folder's dataset.json; errors as `import_decathlon`."""
    return _classes(_read_description(Path(folder)), Path(folder))[0]


def read_ignore(folder: AnyPath) -> int | None:
    """Id where nobody annotated, nnU-Net's "ignore", by a folder's dataset.json; None if it has neither.

    The classes are not looked at: they may be of a kind that no project takes.
    """
    folder = Path(folder)
    if not (folder / "dataset.json").exists():
        return None
    number = dict(_named(_read_description(folder)["labels"])).get("ignore")
    try:
        return None if number is None else int(number)
    except (TypeError, ValueError):
        raise InvalidLabel(
            f'"ignore" {number!r}', "it has one integer id", "Write its id", folder / "dataset.json"
        ) from None


def plan_cases(
    folder: Path, description: dict[str, Any], labelled: int, validation: int, ignore: int | None = None
) -> list[Case]:
    """All cases of the folder in order, with roles and labels; nothing but names is read."""
    ending = str(description.get("file_ending", ".nii.gz"))
    training = _pairs(folder, description, "training", "Tr", ending)
    test = _pairs(folder, description, "test", "Ts", ending)
    _check_counts(labelled, validation, len(training), folder)
    held_out = len(training) - validation
    cases = []
    for number, (name, image, label) in enumerate(training):
        role: Role = "labelled" if number < labelled else "validation" if number >= held_out else "unlabelled"
        cases.append(_case(name, image, None if role == "unlabelled" else label, role, ignore))
    for name, image, label in test:
        cases.append(_case(name, image, label if label.exists() else None, "test", ignore))
    return _unique(cases, folder)


def _case(name: str, image: Path, label: Path | None, role: Role, ignore: int | None) -> Case:
    return Case(normalize("NFC", name), image, label, role, "dense" if ignore is None else "sparse", ignore)


def _convert(project: Project, case: Case) -> str:
    folder = project.volume_path(case.name)
    store_incoming(load_case(case, project.classes), folder, project.classes, project.normalisation)
    return case.name


def _convert_all(
    convert: Callable[[Case], str], cases: Sequence[Case], progress: Progress | None, scheduler: str | None
) -> None:
    names = map(convert, cases) if scheduler is None else _in_parallel(convert, cases, scheduler)
    for done, name in enumerate(names, start=1):
        if progress is not None:
            progress(done, len(cases), name)


def _in_parallel(convert: Callable[[Case], str], cases: Sequence[Case], scheduler: str) -> list[str]:
    """Convert by Dask; a distributed scheduler needs the project's folder on a shared file system."""
    from dask.base import compute
    from dask.delayed import delayed

    tasks = [delayed(convert)(case) for case in cases]
    if "://" not in scheduler:
        return list(compute(*tasks, scheduler=scheduler))
    from distributed import Client

    try:
        client = Client(scheduler)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no answer ({error})", "a Dask scheduler listens at the address", "Start it first", scheduler
        ) from error
    with client:
        return list(client.gather(client.compute(tasks)))


def _check_scheduler(scheduler: str | None) -> None:
    """Refuse what Dask does not know, and an address that nothing here could speak to, before anything is read."""
    from dask.base import named_schedulers

    if scheduler is None or scheduler in named_schedulers:
        return
    if "://" not in scheduler:
        raise UsageError(
            f"scheduler {scheduler!r}",
            "it is threads, processes, or the address of a Dask scheduler, tcp://HOST:PORT",
            "Choose one of them",
        )
    if find_spec("distributed") is None:
        raise UsageError(
            f"scheduler {scheduler}",
            "an address takes the package distributed, which is not installed",
            "pip install 'napari-crln[cluster]', or choose threads or processes",
        )


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / "dataset.json"
    try:
        description = json.loads(read_small(path.resolve(), _LIMIT))
    except FileNotFoundError:
        raise UsageError(
            "no dataset.json",
            "a Decathlon or nnU-Net folder has one",
            "Give the folder that holds it",
            folder,
        ) from None
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(
            f"not JSON: {error}", "dataset.json is a JSON object", "Mend it", path
        ) from error
    except OSError as error:
        raise UnreadableFile(
            error.strerror or str(error), "dataset.json can be read", "Check its permissions", path
        ) from error
    if not isinstance(description, dict) or not isinstance(description.get("labels"), dict):
        raise UnreadableFile('no "labels"', "dataset.json names the classes", "Add them", path)
    if description.get("file_ending", ".nii.gz") not in _ENDINGS:
        ending, kinds = description["file_ending"], " or ".join(_ENDINGS)
        raise UnreadableFile(
            f'"file_ending": {ending!r}', f"it is {kinds}", "Convert the images to NIfTI", path
        )
    return description


def _classes(description: dict[str, Any], folder: Path) -> tuple[ClassTable, int | None]:
    """Class table, and the id of nnU-Net's "ignore" class, where nobody annotated."""
    labels: dict[str, Any] = description["labels"]
    try:
        ids = {name: int(number) for name, number in _named(labels)}
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


def _named(labels: dict[str, Any]) -> list[tuple[str, Any]]:
    """(name, id) of each entry, whether the data set is in the Decathlon form, id first, or in nnU-Net's."""
    turned = all(key.lstrip("-").isdigit() for key in labels)
    return [(str(value), key) if turned else (key, value) for key, value in labels.items()]


def _pairs(
    folder: Path, description: dict[str, Any], key: str, part: str, ending: str
) -> list[tuple[str, Path, Path]]:
    """(case name, image, label) of a part, listed in dataset.json or found in its folder."""
    images, labels = folder / f"images{part}", folder / f"labels{part}"
    listed = _listed(folder, description, key)
    entries = listed or [(image, None) for image in _found(images, ending)]
    entries = [(_with_channel(image), label) for image, label in entries]
    suffixed = _has_suffixes(folder, [image for image, _ in entries], ending)
    pairs = []
    for image, label in entries:
        name = _without_channel(image) if suffixed else case_name(image)
        pairs.append((name, image, label or labels / f"{name}{ending}"))
    return pairs


def _listed(folder: Path, description: dict[str, Any], key: str) -> list[tuple[Path, Path | None]]:
    """Entries of dataset.json: {"image": …, "label": …}, or bare paths of images."""
    entries: list[tuple[Path, Path | None]] = []
    listed = description.get(key) or []
    for entry in listed if isinstance(listed, list) else [listed]:
        fields = entry if isinstance(entry, dict) else {"image": entry}
        label = fields.get("label")
        entries.append((_inside(folder, fields.get("image")), _inside(folder, label) if label else None))
    return entries


def _inside(folder: Path, named: object) -> Path:
    """A file that dataset.json names, which must lie below the folder: somebody else may have written it."""
    path = Path(named) if isinstance(named, str) else None
    if path is None or path.is_absolute() or ".." in path.parts:
        raise UnreadableFile(
            f"case {named!r}",
            "dataset.json names files below its own folder",
            "Move the file there, and name it so",
            folder / "dataset.json",
        )
    return folder / path


def _with_channel(path: Path) -> Path:
    """The file, or nnU-Net's first channel of it where only that exists."""
    channel = path.with_name(f"{case_name(path)}_0000{path.name[len(case_name(path)) :]}")
    return channel if channel.exists() and not path.exists() else path


def _found(folder: Path, ending: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.endswith(ending) and not p.name.startswith("."))


def _has_suffixes(folder: Path, images: Sequence[Path], ending: str) -> bool:
    """Whether names end in nnU-Net's channel numbers, and not in four digits of their own.

    Labels have no channel: a label that carries an image's full name settles it.
    """
    named = all(_CHANNEL.match(case_name(image)) for image in images)
    first = any(case_name(image).endswith("_0000") for image in images)
    own = any((folder / part / f"{case_name(i)}{ending}").exists() for part in _LABELS for i in images)
    return named and first and not own


def _without_channel(image: Path) -> str:
    """Case name without its channel number, which must be the first."""
    name, _, channel = case_name(image).rpartition("_")
    if channel != "0000":
        raise InvalidIntensity(
            f"channel {channel} of case {name}",
            "an image has one channel",
            "Keep the files of one channel, _0000, only",
            image,
        )
    return name


def _unique(cases: list[Case], folder: Path) -> list[Case]:
    """Refuse a name that occurs twice, whatever its case, or is none for a volume: before anything is converted."""
    seen: set[str] = set()
    for case in cases:
        if same_file(check_name(case.name)) in seen:
            raise UsageError(f"case {case.name} occurs twice", "case names are unique", "Rename one", folder)
        seen.add(same_file(case.name))
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
