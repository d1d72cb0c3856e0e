"""`accept` turns a prediction into an annotation, or takes that back; `role` says what volumes are for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_crln.cli.console import print_json, say
from napari_crln.cli.options import AsJson, ProjectPath, RoleName
from napari_crln.errors import UsageError

if TYPE_CHECKING:
    from napari_crln.volume.proofread import Outcome

VolumeName = Annotated[str, typer.Argument(metavar="VOLUME", help="Name of the volume in the project.")]


def accept(
    project: ProjectPath,
    volume: VolumeName,
    slice_: Annotated[
        tuple[int, int] | None,
        typer.Option("--slice", metavar="AXIS INDEX", help="Only this slice; axes 0, 1, 2 are D, H, W."),
    ] = None,
    revision: Annotated[
        int | None,
        typer.Option(
            "--restore",
            metavar="REVISION",
            help="Bring this annotation back instead; 0: none, as before the first.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a volume's prediction its annotation; the one before is kept, and an unlabelled volume becomes labelled."""
    from napari_crln.volume import proofread
    from napari_crln.volume.accept import Plane
    from napari_crln.volume.project import Project

    opened = Project.open(project)
    if revision is None:
        done = proofread.accept(opened, volume, None if slice_ is None else Plane(*slice_))
    elif slice_ is None:
        done = proofread.restore(opened, volume, revision)
    else:
        raise UsageError("--slice and --restore", "a whole annotation is restored", "Drop one", "accept")
    told = _tell_runs(project, volume, done.revision)
    _report(project, volume, done, told, as_json)


def role(
    project: ProjectPath,
    volumes: Annotated[list[str], typer.Argument(metavar="VOLUME …", help="Names of volumes.")],
    to: Annotated[RoleName, typer.Option("--to", help="Their new role.")],
    as_json: AsJson = False,
) -> None:
    """Give volumes another role. Runs that are being trained follow labelled and unlabelled; validation and test from their next start."""
    from napari_crln.volume.project import Project

    opened = Project.open(project)
    for name in dict.fromkeys(volumes):
        opened.volume(name)  # all of them are there, before any is changed
    changed = [opened.set_role(name, to) for name in dict.fromkeys(volumes)]
    if as_json:
        print_json({"project": str(project), "role": to, "volumes": [each.name for each in changed]})
    else:
        say(f"{len(changed)} volumes of {project} are {to} now")


def _tell_runs(project: Path, volume: str, revision: int) -> list[str]:
    """Tell the runs that are being trained; their names."""
    from napari_crln.events import LabelsChanged
    from napari_crln.lock import holder
    from napari_crln.run.folder import runs
    from napari_crln.run.watch import send

    trained = []
    for run in runs(project):
        named = holder(run.path)
        if named is not None and named.alive() is not False:
            send(run.path, LabelsChanged(volume=volume, revision=revision))
            trained.append(run.name)
    return trained


def _report(project: Path, volume: str, done: Outcome, told: list[str], as_json: bool) -> None:
    if as_json:
        kept = None if done.kept is None else str(done.kept)
        document = {"project": str(project), "volume": volume, **done._asdict(), "kept": kept, "told": told}
        return print_json(document)
    changed = "" if done.role == done.was else f"; it was {done.was} and is {done.role} now"
    before = "" if done.kept is None else f"; the annotation before is kept in {done.kept}"
    return say(f"{volume}: annotation of revision {done.revision}, {done.coverage}{changed}{before}")
