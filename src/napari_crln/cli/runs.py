"""Which run of a project a command means."""

from __future__ import annotations

from pathlib import Path

from napari_crln.errors import RunError
from napari_crln.run.folder import RunFolder, newest_finished, runs


def named_run(project: Path, name: str) -> RunFolder:
    """The run of that folder, or the newest that was given that name.

    Raises
    ------
    RunError
        If there is none.
    """
    known = runs(project)
    for run in known:
        if run.name == name:
            return run
    for run in reversed(known):
        if name in (run.given_name, run.name[len("2000-01-01-") :]):
            return run
    some = ", ".join(run.name for run in known[-5:]) or "none yet"
    raise RunError(f"no run {name!r}", f"the project's runs are {some}", "Check the name", project)


def run_to_use(project: Path, name: str | None) -> RunFolder:
    """The named run, or the newest that finished.

    Raises
    ------
    RunError
        If there is none; the remedy names an unfinished one.
    """
    if name is not None:
        return named_run(project, name)
    found = newest_finished(project)
    if found is None:
        known = runs(project)
        remedy = f"Finish it by resume, or use it with --run {known[-1].name}" if known else "Train one"
        raise RunError("no finished run", "without --run the newest finished run is used", remedy, project)
    return found


def run_to_resume(project: Path, name: str | None, extend: bool) -> RunFolder:
    """The named run, or the newest that has not finished; any newest, if it is to be extended.

    Raises
    ------
    RunError
        If there is none.
    """
    if name is not None:
        return named_run(project, name)
    for run in reversed(runs(project)):
        if extend or run.status().reason != "finished":
            return run
    raise RunError(
        "no unfinished run",
        "resume goes on with the newest run that has not finished",
        "Train a new run, or extend one by --iterations",
        project,
    )
