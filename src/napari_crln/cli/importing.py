"""`init` makes an empty project; `import` makes one of a Decathlon folder, or adds NIfTI files to one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from napari_crln.cli.console import print_json, print_table, progress_bar, say
from napari_crln.cli.options import AsJson, ProjectPath, RoleName
from napari_crln.errors import UsageError

if TYPE_CHECKING:
    from napari_crln.types import Coverage
    from napari_crln.volume.project import Project

_ROLES: tuple[RoleName, ...] = ("labelled", "unlabelled", "validation", "test")
_ID_RULE = "an id is an integer between -2^62 and 2^62"
#: Without one, the library's default, which is not repeated here; naming it at import would cost NumPy.
Normalise = Annotated[
    Literal["zscore", "percentile", "none"] | None,
    typer.Option(
        help="How intensities become the network's input, measured for each volume; default: percentile."
    ),
]


def init(
    project: Annotated[Path, typer.Argument(metavar="PROJECT", help="New folder; must not exist.")],
    classes: Annotated[
        list[str],
        typer.Option("--class", metavar="NAME[=ID]", help="Foreground class; repeatable, in order."),
    ],
    background: Annotated[int, typer.Option(help="Id of the background in label files.")] = 0,
    normalisation: Normalise = None,
    as_json: AsJson = False,
) -> None:
    """Make an empty project with a class table."""
    from napari_crln.volume.intensity import DEFAULT_KIND
    from napari_crln.volume.labels import ClassTable
    from napari_crln.volume.project import Project

    table = ClassTable.from_ids(_ids(classes, background))
    _report(Project.create(project, table, normalisation or DEFAULT_KIND), as_json)


def import_(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="Decathlon or nnU-Net folder, or a NIfTI image.")],
    project: ProjectPath,
    labelled: Annotated[
        int | None, typer.Option(metavar="N", help="Folder: the first N training cases are labelled.")
    ] = None,
    validation: Annotated[
        int, typer.Option(metavar="K", help="Folder: the last K training cases are held out with labels.")
    ] = 0,
    normalisation: Normalise = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="Folder: Dask scheduler: threads, processes, or an address (extra cluster)."),
    ] = None,
    role: Annotated[RoleName | None, typer.Option(help="File: its role; default by --label.")] = None,
    label: Annotated[Path | None, typer.Option(help="File: its label, NIfTI on the same grid.")] = None,
    ignore: Annotated[
        int | None,
        typer.Option(
            metavar="ID",
            help="File: id in the label where nobody annotated; the label is then sparse. 0 if background was not annotated either.",
        ),
    ] = None,
    annotation_values: Annotated[
        bool,
        typer.Option(
            "--annotation-values",
            help="File: its label is sparse and holds an annotation layer's values, not the ids of 'init': 0 not annotated, "
            "1 background, 2 the first class …",
        ),
    ] = False,
    name: Annotated[str | None, typer.Option(help="File: name of the volume; default: the file's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Import a folder of cases as a new project, or one NIfTI image into an existing project."""
    if source.is_dir():
        _refuse(context, ("role", "label", "ignore", "annotation_values", "name"), source, "a folder")
        made = _import_folder(
            source, project, _counted(labelled), validation, normalisation, scheduler, as_json
        )
        return _report(made, as_json)
    _refuse(context, ("labelled", "validation", "normalisation", "scheduler"), source, "a file")
    if label is None:
        _refuse(context, ("ignore", "annotation_values"), source, "a file without --label")
    if annotation_values:
        _refuse(context, ("ignore",), source, "--annotation-values, of which 0 is not annotated")
    from napari_crln.volume.imports import import_nifti
    from napari_crln.volume.project import Project

    opened = Project.open(project)
    chosen = role or ("unlabelled" if label is None else "labelled")
    coverage: Coverage = "sparse" if annotation_values or ignore is not None else "dense"
    import_nifti(opened, source, label, chosen, coverage, name=name, ignore=ignore)
    return _report(opened, as_json)


def _import_folder(
    source: Path,
    project: Path,
    labelled: int,
    validation: int,
    normalisation: Literal["zscore", "percentile", "none"] | None,
    scheduler: str | None,
    as_json: bool,
) -> Project:
    from napari_crln.volume.decathlon import import_decathlon
    from napari_crln.volume.intensity import DEFAULT_KIND

    chosen = normalisation or DEFAULT_KIND
    with progress_bar("importing", shown=not as_json) as tell:
        return import_decathlon(
            source, project, labelled, validation, tell, scheduler=scheduler, normalisation=chosen
        )


def _counted(labelled: int | None) -> int:
    if labelled is None:
        raise UsageError(
            "no number of labelled cases",
            "a folder is imported with its first N training cases labelled",
            "Add --labelled N",
            "import",
        )
    return labelled


def _refuse(context: typer.Context, names: Sequence[str], source: Path, kind: str) -> None:
    """Refuse options that were given, be it with their default, and would be ignored."""
    sources = {name: context.get_parameter_source(name) for name in names}
    given = [
        f"--{name.replace('_', '-')}"
        for name, how in sources.items()
        if how is not None and how.name != "DEFAULT"
    ]
    if given:
        raise UsageError(
            f"{', '.join(given)} given", f"such options do not apply to {kind}", "Leave them out", source
        )


def _ids(classes: Sequence[str], background: int) -> dict[str, int]:
    """Id of each class by its name, the background first."""
    if not _fits(background):
        raise UsageError(f"id {background}", _ID_RULE, "Give the id that label files have", "--background")
    ids = {"background": background}
    for number, text in enumerate(classes, start=1):
        name, _, value = text.partition("=")
        if name.strip().casefold() == "background":
            raise UsageError(
                f"class {text!r}",
                "every project has its background, and --class names the others",
                "Leave it out; where its id is not 0, add --background ID",
                "--class",
            )
        if not name or (value and not _is_id(value)) or name in ids:
            raise UsageError(
                f"class {text!r}",
                f"a class is NAME or NAME=ID, each name once, and {_ID_RULE}",
                "Write it so",
                "--class",
            )
        ids[name] = int(value) if value else number
    return ids


def _is_id(text: str) -> bool:
    return re.fullmatch(r"-?\d{1,19}", text) is not None and _fits(int(text))


def _fits(number: int) -> bool:
    from napari_crln.volume.manifest import ID_LIMIT

    return abs(number) < ID_LIMIT


def _report(project: Project, as_json: bool) -> None:
    counts = {role: len(project.with_role(role)) for role in _ROLES}
    if as_json:
        print_json({"project": str(project.path), "classes": list(project.classes.names), "volumes": counts})
        return
    print_table(("role", "volumes"), [(role, str(count)) for role, count in counts.items()])
    say(f"{project.path}: classes {', '.join(project.classes.names)}")
    if counts["labelled"]:
        say(f"Next: napari-crln train {project.path}")
