"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

#: As `types.Role` has it; repeated, since importing that one costs NumPy and `--help` must be fast.
RoleName: TypeAlias = Literal["labelled", "unlabelled", "validation", "test"]

ProjectPath: TypeAlias = Annotated[Path, typer.Argument(metavar="PROJECT", help="Project folder.")]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
RunName: TypeAlias = Annotated[
    str | None,
    typer.Option("--run", metavar="NAME", help="Run of the project; default: the newest finished."),
]
RoleChoice: TypeAlias = Annotated[RoleName | None, typer.Option("--role", help="Volumes of this role.")]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.FIELD=VALUE", help="Set a field of the configuration; repeatable."
    ),
]
Overwrite: TypeAlias = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
