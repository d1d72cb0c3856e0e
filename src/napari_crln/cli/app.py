"""The commands under one name, and what becomes of an exception."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

import napari_crln
from napari_crln.cli import (
    demo,
    evaluating,
    exporting,
    importing,
    inspecting,
    predicting,
    proofreading,
    suggesting,
    training,
    watching,
)
from napari_crln.cli.console import accept_any_text
from napari_crln.cli.signals import orderly_end
from napari_crln.errors import CrlnError

_DEBUG = "--debug"

app = typer.Typer(
    name="napari-crln",
    help="Semi-supervised 3D segmentation: label a few volumes, train on all of them, segment every one.",
    epilog="Exit codes: docs/reference/commands.md. --debug, anywhere, shows the traceback of an error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(importing.init)
app.command("import")(importing.import_)
app.command("train")(training.train)
app.command("resume")(training.resume)
app.command("watch")(watching.watch)
app.command("predict")(predicting.predict)
app.command("accept")(proofreading.accept)
app.command("role")(proofreading.role)
app.command("export")(exporting.export)
app.command("evaluate")(evaluating.evaluate)
app.command("suggest")(suggesting.suggest)
app.command("inspect")(inspecting.inspect)
app.command("demo")(demo.demo)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    Parameters
    ----------
    arguments : without the program's name; none: those of this process
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = _DEBUG in given
    accept_any_text()
    try:
        with orderly_end():
            typer.main.get_command(app).main([a for a in given if a != _DEBUG], prog_name=app.info.name)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except Exception as error:
        return _reported(error, debug)
    return 0


def _reported(error: Exception, debug: bool) -> int:
    """Print an error on one line, with its traceback if asked; returns the exit code."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, CrlnError):
        print(f"napari-crln: {error}", file=sys.stderr)
        return error.exit_code
    what = " ".join(f"{type(error).__name__}: {error}".split())
    advice = (
        ""
        if debug
        else "; this is a fault of the program: run it again with --debug and report what it shows"
    )
    print(f"napari-crln: {what}{advice}", file=sys.stderr)
    return 1


def _version(asked: bool) -> None:
    if asked:
        print(f"napari-crln {napari_crln.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option(_DEBUG, help="Show the traceback of an error.")] = False,
) -> None:
    """Options of the program itself; `main` takes --debug out before."""
