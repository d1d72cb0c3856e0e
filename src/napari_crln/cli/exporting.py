"""`export` writes what a project holds as NIfTI files on the source grids."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from napari_crln.cli.console import print_json, progress_bar, say
from napari_crln.cli.options import AsJson, Overwrite, ProjectPath


def export(
    project: ProjectPath,
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the files; made if missing.")],
    content: Annotated[
        Literal["prediction", "annotation"], typer.Option("--what", help="Which labels.")
    ] = "prediction",
    volume: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="This volume; repeatable. Default: all that have such labels."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write predictions or annotations as NIfTI, on the grids of the files that the volumes came from."""
    from napari_crln.volume.export import ignore_id, plan_export, write_export
    from napari_crln.volume.project import Project

    opened = Project.open(project)
    planned = plan_export(opened, out, content, volume or (), overwrite=overwrite)
    with progress_bar("exporting", shown=not as_json) as tell:
        for done, each in enumerate(planned, start=1):
            write_export(each, overwrite=overwrite)
            tell(done, len(planned), each.volume.name)
    sparse = content == "annotation" and any(each.volume.coverage == "sparse" for each in planned)
    unknown = ignore_id(opened.classes) if sparse else None
    if as_json:
        files = [{"name": each.volume.name, "file": str(each.path)} for each in planned]
        print_json({"project": str(project), "what": content, "not_annotated": unknown, "volumes": files})
        return
    note = "" if unknown is None else f"; voxels that nobody annotated are {unknown}"
    say(f"{len(planned)} files written to {out}{note}")
