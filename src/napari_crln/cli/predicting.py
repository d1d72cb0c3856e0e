"""`predict` segments a project's volumes by one of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from napari_crln.cli.console import Tell, print_json, progress_bar, progress_json, say
from napari_crln.cli.options import AsJson, Overwrite, ProjectPath, RoleChoice, RoleName, RunName
from napari_crln.errors import ProjectError, UsageError

if TYPE_CHECKING:
    from napari_crln.engine.segment import Segmentation, Segmenter
    from napari_crln.volume.project import Project
    from napari_crln.volume.stored import Volume


def predict(
    project: ProjectPath,
    run: RunName = None,
    role: RoleChoice = None,
    volume: Annotated[list[str] | None, typer.Option(metavar="NAME", help="This volume; repeatable.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write NIfTI files on the source grids into this folder.")
    ] = None,
    without_clues: Annotated[
        bool, typer.Option("--without-clues", help="From the logits alone (an ablation).")
    ] = False,
    checkpoint: Annotated[
        Literal["last", "best"], typer.Option(help="Which of the run's checkpoints.")
    ] = "last",
    save_probability: Annotated[
        bool, typer.Option("--save-probability", help="Keep class probabilities in the project too.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    progress_lines: Annotated[
        bool, typer.Option("--progress", help="Print progress as JSON lines on stderr, for programs.")
    ] = False,
) -> None:
    """Segment volumes (all of them, those of a role, or those named) and store the result in the project."""
    from napari_crln.cli.runs import run_to_use
    from napari_crln.volume.export import nifti_files
    from napari_crln.volume.project import Project

    opened = Project.open(project)
    volumes = chosen_volumes(opened, role, volume or [])
    used = run_to_use(project, run)
    targets = {} if out is None else nifti_files(volumes, out, overwrite=overwrite)
    from napari_crln.engine.segment import Segmenter

    segmenter = Segmenter(used.path, checkpoint, clues=False if without_clues else None, device=device)
    attributes = describe(segmenter, used.name, checkpoint)
    bar = progress_json() if progress_lines else progress_bar("predicting", shown=not as_json)
    with bar as tell:
        for number, each in enumerate(volumes):
            progress = _nth(tell, number, len(volumes), each.name)
            with segmenter.segment(each, probability=save_probability, progress=progress) as result:
                _keep(result, each, attributes, targets.get(each.name), overwrite)
    _report(project, attributes, volumes, targets, as_json)


def chosen_volumes(project: Project, role: RoleName | None, names: Sequence[str]) -> list[Volume]:
    """The volumes named, those of a role, or all.

    Raises
    ------
    ProjectError
        If there is none.
    UsageError
        If both a role and names are given.
    """
    if role is not None and names:
        raise UsageError("--role and --volume", "one of them says which volumes", "Drop one", "predict")
    if names:
        return [project.volume(name) for name in dict.fromkeys(names)]
    volumes = project.with_role(role) if role is not None else list(project.volumes.values())
    if not volumes:
        of_role = f" of role {role}" if role else ""
        raise ProjectError(
            f"no volume{of_role}", "the command needs at least one", "Import some", project.path
        )
    return volumes


def describe(segmenter: Segmenter, run: str, checkpoint: str) -> dict[str, Any]:
    """Attributes that a prediction carries in the project."""
    return {
        "run": run,
        "step": segmenter.snapshot.step,
        "checkpoint": checkpoint,
        "method": segmenter.settings.method.name,
        "clues": segmenter.clues,
    }


def _keep(
    result: Segmentation, volume: Volume, attributes: dict[str, Any], target: Path | None, overwrite: bool
) -> None:
    """Write a result into the project, and as NIfTI where asked."""
    from napari_crln.volume.nifti import write_labels

    volume.write_prediction(result.labels, attributes)
    if result.probability is not None:
        volume.write_map("probability", result.probability, attributes)
    if target is not None:
        write_labels(target, result.labels, volume.source, volume.classes, overwrite=overwrite)


def _nth(tell: Tell, number: int, count: int, name: str) -> Any:
    def progress(done: int, total: int) -> None:
        tell(number * total + done, count * total, name)

    return progress


def _report(
    project: Path,
    attributes: dict[str, Any],
    volumes: Sequence[Volume],
    targets: dict[str, Path],
    as_json: bool,
) -> None:
    if as_json:
        files = [{"name": v.name, "file": str(targets[v.name]) if targets else None} for v in volumes]
        print_json({"project": str(project), **attributes, "volumes": files})
        return
    clues = "with" if attributes["clues"] else "without"
    where = f" and to {next(iter(targets.values())).parent}" if targets else ""
    say(
        f"{len(volumes)} volumes by {attributes['run']} at iteration {attributes['step']}, {clues} clues: "
        f"written to {project}{where}"
    )
