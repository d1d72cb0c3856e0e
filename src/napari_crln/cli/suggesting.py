"""`suggest` says which slices to label next, by what a run has learned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_crln.cli.console import Tell, print_json, print_table, progress_bar, remark
from napari_crln.cli.options import AsJson, ProjectPath
from napari_crln.errors import ProjectError, UsageError

if TYPE_CHECKING:
    import zarr

    from napari_crln.run.folder import RunFolder
    from napari_crln.suggestions import Suggestions
    from napari_crln.types import SpacingDHW, TargetDHW
    from napari_crln.volume.intensity import Normalisation
    from napari_crln.volume.project import Project
    from napari_crln.volume.stored import Volume

_ROLES = ("labelled", "unlabelled")


def suggest(
    project: ProjectPath,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="NAME", help="Run of the project; default: the newest with a checkpoint."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Slices to suggest, at most.")] = 20,
    axis: Annotated[
        list[int] | None,
        typer.Option(
            min=0, max=2,
            help="Across which axis slices lie: 0, 1, 2 = D, H, W; repeatable. "
            "Default: across which each volume has been annotated, else 0.",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    publish: Annotated[
        bool,
        typer.Option("--publish", help="Also put the list into the run folder, where the panel shows it."),
    ] = False,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Rank the slices of all volumes that may be trained on by what labelling them would teach."""
    from napari_crln.volume.project import Project

    opened = Project.open(project)
    used = _run(project, run)
    volumes = [v for v in opened.volumes.values() if v.role in _ROLES]
    if not volumes:
        raise ProjectError(
            "no volume to suggest slices of",
            "labelled and unlabelled volumes are looked at",
            "Import some",
            opened.path,
        )
    with progress_bar("looking at", shown=not as_json) as tell:
        found = _ranked(used, volumes, count, tuple(sorted(set(axis))) if axis else None, device, tell)
    if publish:
        _publish(used, found)
    if as_json:
        print_json({"project": str(project), "run": used.name, **found.model_dump(mode="json")})
    else:
        _print(found, used.name, opened)


@dataclass(frozen=True)
class _Viewed:
    """A volume whose image is read tile by tile."""

    name: str
    image: zarr.Array[Any]
    normalisation: Normalisation
    spacing: SpacingDHW


def _ranked(
    run: RunFolder,
    volumes: list[Volume],
    count: int,
    axes: tuple[int, ...] | None,
    device: str | None,
    tell: Tell,
) -> Suggestions:
    from napari_crln.engine.segment import Segmenter
    from napari_crln.engine.suggest import suggest as rank

    trained = Segmenter(run.path, device=device)
    done = iter(range(len(volumes)))
    return rank(
        trained.learner,
        trained.settings,
        _read(volumes),
        step=trained.snapshot.step,
        count=count,
        axes=axes,
        progress=lambda name: tell(next(done), len(volumes), name),
    )


def _read(volumes: list[Volume]) -> Iterator[tuple[_Viewed, TargetDHW | None]]:
    for volume in volumes:
        labelled = volume.role == "labelled" and volume.has_annotation
        target = volume.read_targets() if labelled else None
        yield _Viewed(volume.name, volume.image, volume.normalisation, volume.grid.spacing), target


def _run(project: Path, name: str | None) -> RunFolder:
    """The named run, or the newest that has a checkpoint: a stopped one serves too."""
    from napari_crln.cli.runs import named_run, run_to_use
    from napari_crln.run.folder import runs

    if name is not None:
        return named_run(project, name)
    for run in reversed(runs(project)):
        if any(run.checkpoints.glob("step-*")):
            return run
    return run_to_use(project, None)


def _publish(run: RunFolder, found: Suggestions) -> None:
    """Put the list into the run folder, unless a process trains the run: that one keeps its own.

    Raises
    ------
    UsageError
        If the run is being trained.
    """
    from napari_crln.engine.suggest import write_suggestions
    from napari_crln.errors import RunError
    from napari_crln.events import SUGGESTIONS_FILE
    from napari_crln.lock import Lock

    try:
        with Lock(run.path):
            write_suggestions(run.path / SUGGESTIONS_FILE, found)
    except RunError as error:
        raise UsageError(
            f"{run.name} is being trained",
            "a run in training keeps its own list",
            "Leave --publish out",
            "--publish",
        ) from error


def _print(found: Suggestions, run: str, project: Project) -> None:
    if found.note:
        remark(found.note)
    rows = [
        (str(number), item.volume, "DHW"[item.axis], str(item.index), f"{item.score:.3f}", item.why)
        for number, item in enumerate(found.items, start=1)
    ]
    title = f"{project.name}: to label next, by {run} at iteration {found.step}"
    print_table(("", "volume", "axis", "slice", "score", "why"), rows, title)
