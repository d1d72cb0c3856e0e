"""`evaluate` scores predictions: those that a project holds, or NIfTI files against label files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_crln.cli.console import print_json, print_table, remark, say
from napari_crln.cli.options import AsJson, Overwrite, RoleChoice
from napari_crln.errors import UsageError

if TYPE_CHECKING:
    from napari_crln.engine.evaluate import Evaluation
    from napari_crln.engine.gather import Scored

_NO_LABELS = (
    "There are no reference labels for these {count} cases, so only predicted volumes are listed. "
    "Give labels with --labels DIR: files named as the images, with the project's class ids."
)


_SPARSE = (
    "Annotated in part: {count} of {cases} cases. Dice and Jaccard are over annotated voxels; surface distances are not "
    "measured there, as where annotation ends is no border of an object."
)


def evaluate(
    project: Annotated[Path | None, typer.Argument(metavar="PROJECT", help="Project folder.")] = None,
    role: RoleChoice = None,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Insist that the predictions are of this run.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="NIfTI files to score, instead of a project's.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="DIR", help="NIfTI files with the truth, of the same names.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write scores.json, scores.csv and cases.png here.")
    ] = None,
    cases: Annotated[bool, typer.Option("--cases", help="Print every case, not only the summary.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Score predictions: Dice, Jaccard, 95HD, ASD and ASSD, per case and class, in voxels and millimetres."""
    _check_free(out, overwrite)
    scored = _scored(project, role, run, predictions, labels)
    if out is not None:
        _write(scored, out)
    if as_json:
        print_json({"predictions": scored.origin, "evaluation": scored.evaluation.model_dump(mode="json")})
    else:
        _print(scored, cases)
        if out is not None:
            say(f"Written to {out}: {', '.join(_FILES)}")


_FILES = ("scores.json", "scores.csv", "cases.png")


def _scored(
    project: Path | None, role: Any, run: str | None, predictions: Path | None, labels: Path | None
) -> Scored:
    from napari_crln.engine.gather import of_folders, of_project
    from napari_crln.volume.project import Project

    if predictions is not None:
        if labels is None or role is not None or run is not None:
            raise UsageError(
                "--predictions without --labels, or with --role or --run",
                "files are scored as: evaluate [PROJECT] --predictions DIR --labels DIR",
                "Give just these",
                "evaluate",
            )
        return of_folders(predictions, labels, None if project is None else Project.open(project).classes)
    if project is None:
        raise UsageError(
            "nothing to score",
            "evaluate takes a project, or --predictions and --labels",
            "Name one",
            "evaluate",
        )
    opened = Project.open(project)
    if run is not None:
        from napari_crln.cli.runs import named_run

        run = named_run(project, run).name
    return of_project(opened, role, run, labels)


def _check_free(out: Path | None, overwrite: bool) -> None:
    taken = [out / name for name in _FILES if (out / name).exists()] if out is not None else []
    if taken and not overwrite:
        raise UsageError(
            "the file exists",
            "nothing is overwritten unasked",
            "Name another folder, or add --overwrite",
            taken[0],
        )


def _write(scored: Scored, out: Path) -> None:
    import csv
    import io

    from napari_crln import durable
    from napari_crln.engine.plots import plot_cases
    from napari_crln.engine.tables import case_rows

    out.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(case_rows(scored.evaluation))
    durable.replace(out / "scores.csv", text.getvalue().encode())
    durable.replace(out / "scores.json", scored.evaluation.model_dump_json(indent=1).encode())
    with durable.replacing(out / "cases.png") as aside:
        plot_cases(scored.evaluation, aside, colours=scored.colours, title=scored.title)


def _print(scored: Scored, every_case: bool) -> None:
    evaluation = scored.evaluation
    for note in scored.notes:
        remark(note)
    say(scored.title)
    if every_case or len(evaluation.without_truth) == len(evaluation.cases):
        _print_cases(evaluation)
    if evaluation.overall.cases:
        _print_summary(evaluation)
    elif evaluation.cases:
        say(_NO_LABELS.format(count=len(evaluation.cases)))
    if evaluation.overall.sparse_truths:
        say(_SPARSE.format(count=evaluation.overall.sparse_truths, cases=evaluation.overall.cases))
    empty = sum(s.prediction_empty for case in evaluation.cases for s in case.classes.values())
    say(
        f"Empty predictions: {empty} of {sum(len(case.classes) for case in evaluation.cases)} (cases × classes)"
    )


def _print_cases(evaluation: Evaluation) -> None:
    from napari_crln.engine.tables import case_rows

    header, *rows = case_rows(evaluation)
    print_table(header, rows)


def _print_summary(evaluation: Evaluation) -> None:
    from napari_crln.engine.tables import long_rows

    header, *rows = long_rows(evaluation)
    print_table(header, rows, f"{evaluation.overall.cases} cases with labels")
