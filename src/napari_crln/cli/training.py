"""`train` starts a run of a project, `resume` goes on with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_crln.cli.console import print_json_line, remark, say
from napari_crln.cli.options import AsJson, ProjectPath, Settings
from napari_crln.errors import ConfigError, ProjectError, UsageError

if TYPE_CHECKING:
    from napari_crln.config import RunConfig
    from napari_crln.events import Ended
    from napari_crln.run.folder import RunFolder
    from napari_crln.volume.project import Project

_INTERRUPTED = 130  # as shells have it for Ctrl-C

Iterations = Annotated[int | None, typer.Option(help="Optimiser steps in all.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads.")]


def train(
    project: Annotated[Path | None, typer.Argument(metavar="PROJECT", help="Project folder.")] = None,
    method: Annotated[
        str | None, typer.Option(help="supervised, mean-teacher, ua-mt, cutmix, bcp or crln (default).")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Values that ship for a kind of data; automatic: sizes by the data; "
            "default: the project's, if it names one, else automatic."
        ),
    ] = None,
    iterations: Iterations = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, sampling and views.")] = None,
    device: Device = None,
    threads: Threads = None,
    name: Annotated[str | None, typer.Option(help="Of the run; the date is put before it.")] = None,
    settings: Settings = None,
    run_folder: Annotated[
        Path | None, typer.Option(help="Train the run that was prepared in this folder instead.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train on a project's labelled and unlabelled volumes, in a new run folder."""
    from napari_crln.config import AUTOMATIC
    from napari_crln.run.folder import RunFolder

    chosen = _layer(method, iterations, seed, device, threads)
    if run_folder is not None:
        if project is not None or preset or name or settings or chosen:
            raise UsageError(
                "other options beside --run-folder",
                "a prepared run is trained as its config.toml says",
                "Change the file, or leave them out",
                run_folder,
            )
        # Whole, for the project lies two folders above it: the path may be `.`, or the run's name alone.
        return _follow(RunFolder.open(run_folder.resolve()), as_json)
    from napari_crln.volume.project import Project

    if project is None:
        raise UsageError("no project", "train needs a project folder", "Name one", "train")
    opened = Project.open(project)
    made, notes = configure(opened, preset or opened.preset or AUTOMATIC, chosen, settings or [])
    folder = RunFolder.create(project, made, name)
    for note in notes:
        remark(note)
    return _follow(folder, as_json)


def resume(
    project: ProjectPath,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Run to go on with; default: the newest unfinished.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="New number of optimiser steps in all.")] = None,
    device: Device = None,
    threads: Threads = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a run from its last sound checkpoint."""
    from napari_crln.cli.runs import run_to_resume

    folder = run_to_resume(project, run, extend=iterations is not None)
    change(folder, _layer(None, iterations, None, device, threads), settings or [])
    _follow(folder, as_json)


def configure(
    project: Project, preset: str, chosen: dict[str, Any], settings: list[str]
) -> tuple[RunConfig, list[str]]:
    """Configuration of a new run, and what was derived from the data in it.

    Later layers win: defaults, what the data ask for (`automatic` only) or the preset, options, --set.

    Raises
    ------
    ConfigError, ProjectError
        Whatever would keep the run from starting, before its folder is made.
    """
    from napari_crln import config
    from napari_crln.engine.device import choose_device
    from napari_crln.engine.plan import STRIDE, plan
    from napari_crln.nn.network import check_patch

    own = [chosen, *(config.assignment(text) for text in settings)]
    plain = config.build(config.load_preset(preset), *own)
    device = choose_device(plain.engine.device)
    if not project.with_role("labelled"):
        raise ProjectError(
            "no labelled volume", "training needs at least one", "Label or import one", project.path
        )
    made = plain
    if preset == config.AUTOMATIC:
        shapes = [v.grid.shape for v in project.volumes.values() if v.role in ("labelled", "unlabelled")]
        made = config.build(plan(shapes, plain.iterations, cpu=device.type == "cpu"), *own)
    check_patch(made.batches.patch, STRIDE)
    derived = [
        f"{name} = {new} by the data, instead of {old}; --set or --preset overrides it"
        for name, old, new, _ in config.differences(plain, made)
    ]
    return made, derived


def change(run: RunFolder, chosen: dict[str, Any], settings: list[str]) -> None:
    """Change a run's configuration before it is resumed; the former one is kept beside it.

    Raises
    ------
    ConfigError
        If a field may not change, or the device is absent; nothing is written.
    RunError
        If another process trains the run.
    """
    from napari_crln import config, durable
    from napari_crln.engine.device import choose_device
    from napari_crln.events import CONFIG_FILE
    from napari_crln.lock import Lock

    old = run.config()
    values = old.model_dump(mode="json", exclude_none=True)
    new = config.build(values, chosen, *(config.assignment(text) for text in settings))
    changed = config.differences(old, new)
    for name, before, after, rule in changed:
        if rule == "never":
            raise ConfigError(
                f"{name} = {after} (was {before})",
                "it may not change when a run is resumed",
                "Train a new run with it",
                run.name,
            )
    if changed:
        choose_device(new.engine.device)  # one that is absent would be refused by every later command too
        with Lock(run.path):
            former = run.path / f"config-until-{run.status().step:08d}.toml"
            if not former.exists():
                durable.replace(former, (run.path / CONFIG_FILE).read_bytes())
            durable.replace(run.path / CONFIG_FILE, config.dumps(new).encode())


def _follow(run: RunFolder, as_json: bool) -> None:
    """Train a run folder to its end, showing events; leaves with 130 if it was interrupted."""
    show = _printed if as_json else _shown
    try:
        ended = show(run, run.path.parent.parent, run.config())
    except KeyboardInterrupt:  # the second Ctrl-C: at once, without a checkpoint
        remark(f"{run.name}: interrupted at once; resume goes on from its last checkpoint")
        raise typer.Exit(_INTERRUPTED) from None
    if ended is not None and ended.reason == "interrupted":
        raise typer.Exit(_INTERRUPTED)


def _printed(run: RunFolder, project: Path, settings: RunConfig) -> Ended | None:
    from napari_crln.engine.loop import Trainer
    from napari_crln.events import Ended, dump_line
    from napari_crln.volume.project import Project

    ended: Ended | None = None
    print_json_line(json.dumps({"kind": "run", "name": run.name, "path": str(run.path)}))
    for event in Trainer.of(Project.open(project), settings, run.path):
        print_json_line(dump_line(event).decode())
        ended = event if isinstance(event, Ended) else ended
    return ended


def _shown(run: RunFolder, project: Path, settings: RunConfig) -> Ended | None:
    from napari_crln.cli.live import TrainingDisplay
    from napari_crln.engine.loop import Trainer
    from napari_crln.events import Ended
    from napari_crln.volume.project import Project

    remark(f"run {run.path}")
    ended: Ended | None = None
    with TrainingDisplay(settings.iterations) as display:
        for event in Trainer.of(Project.open(project), settings, run.path):
            display.show(event)
            ended = event if isinstance(event, Ended) else ended
    if ended is not None:
        say(f"{run.name}: {ended.reason} at iteration {ended.step} after {ended.seconds:.0f} s")
        finished = ended.reason == "finished"
        follow_up = "predict" if finished else "resume"
        say(f"Next: napari-crln {follow_up} {project} --run {run.name}")
    return ended


def _layer(
    method: str | None, iterations: int | None, seed: int | None, device: str | None, threads: int | None
) -> dict[str, Any]:
    """The options that were given, as values of the configuration."""
    given = {
        ("method", "name"): method,
        ("iterations",): iterations,
        ("seed",): seed,
        ("engine", "device"): device,
        ("engine", "threads"): threads,
    }
    layer: dict[str, Any] = {}
    for keys, value in given.items():
        if value is not None:
            inner = layer.setdefault(keys[0], {}) if len(keys) > 1 else layer
            inner[keys[-1]] = value
    return layer
