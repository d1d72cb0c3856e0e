"""`inspect` says what a project, a run or a NIfTI file holds, and whether its bytes are sound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_crln.cli.console import print_json, print_table, progress_bar, say
from napari_crln.cli.options import AsJson
from napari_crln.errors import CorruptData, CrlnError, OutOfMemory, UsageError

if TYPE_CHECKING:
    from napari_crln.run.folder import RunFolder
    from napari_crln.volume.project import Project
    from napari_crln.volume.stored import Volume


#: What is told of a volume that is sound.
_CONTENT = ("shape", "spacing", "dtype", "annotation", "revision", "prediction")


def inspect(
    path: Annotated[Path, typer.Argument(help="Project folder, run folder, or NIfTI file.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Project: read every stored array and check its checksums.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a project, run or file holds; a run's checkpoints are always checked."""
    from napari_crln.events import ENVIRONMENT_FILE
    from napari_crln.volume.manifest import FILE

    if (path / FILE).exists():
        _inspect_project(path, verify, as_json)
    elif (path / ENVIRONMENT_FILE).exists():
        _inspect_run(path, as_json)
    elif path.is_file():
        _inspect_file(path, as_json)
    else:
        raise UsageError(
            "neither a project, a run nor a file", "inspect takes one of them", "Check the path", path
        )


def _inspect_project(path: Path, verify: bool, as_json: bool) -> None:
    from napari_crln.run.folder import runs
    from napari_crln.volume.project import Project

    project = Project.open(path)
    faults = _verify(project, as_json) if verify else []
    document: dict[str, Any] = {
        "project": str(path),
        "classes": [{"index": c.index, "name": c.name, "id": c.source_id} for c in project.classes],
        "normalisation": project.normalisation,
        "volumes": [_describe_volume(volume) for volume in project.volumes.values()],
        "runs": [_describe_run(run) for run in runs(path)],
    }
    if verify:
        document["faults"] = faults
    if as_json:
        print_json(document)
    else:
        _print_project(document)
    damaged = [v["damaged"] for v in document["volumes"] if v["damaged"]]
    if faults or damaged:
        what, first = ("stored arrays", faults) if faults else ("volumes", damaged)
        raise CorruptData(
            f"{len(first)} {what} are damaged, the first: {first[0]}",
            "stored bytes never change",
            "Restore them from a copy, or import the volumes again",
            path,
        )


def _describe_volume(volume: Volume) -> dict[str, Any]:
    """What a volume holds; of a damaged one why it cannot be told, for the others are to be listed all the same."""
    try:
        return {"name": volume.name, "role": volume.role, "damaged": None, **_content(volume)}
    except (CrlnError, OSError) as error:
        return {"name": volume.name, "role": volume.role, "damaged": str(error), **dict.fromkeys(_CONTENT)}


def _content(volume: Volume) -> dict[str, Any]:
    predicted = volume.prediction_attributes if volume.has_prediction else None
    shape, spacing = list(volume.grid.shape), [round(mm, 6) for mm in volume.grid.spacing]
    values = (shape, spacing, str(volume.image.dtype), volume.coverage, volume.revision, predicted)
    return dict(zip(_CONTENT, values, strict=True))


def _describe_run(run: RunFolder) -> dict[str, Any]:
    """How far a run is; of one whose configuration is damaged why it cannot be told."""
    try:
        status, configured = run.status(), run.config()
    except (CrlnError, OSError) as error:
        unknown = dict.fromkeys(("method", "step", "iterations", "best_dice"))
        return {"name": run.name, "state": "damaged", "message": str(error), **unknown}
    return {
        "name": run.name,
        "method": status.method or configured.method.name,
        "state": status.state,
        "step": status.step,
        "iterations": status.iterations or configured.iterations,
        "best_dice": status.best_dice,
        "message": status.message,
    }


def _print_project(document: dict[str, Any]) -> None:
    names = ", ".join(f"{c['index']} {c['name']} (id {c['id']})" for c in document["classes"])
    say(f"{document['project']}: classes {names}; normalisation {document['normalisation']}")
    print_table(
        ("volume", "role", "shape D H W", "spacing mm", "type", "annotation", "prediction"),
        [_volume_row(v) for v in document["volumes"]],
    )
    for volume in document["volumes"]:
        if volume["damaged"]:
            say(f"damaged: {volume['damaged']}")
    if document["runs"]:
        print_table(
            ("run", "method", "state", "iteration", "best Dice %"),
            [
                (
                    r["name"],
                    r["method"] or "–",
                    r["state"],
                    "–" if r["step"] is None else f"{r['step']}/{r['iterations']}",
                    "–" if r["best_dice"] is None else f"{r['best_dice'] * 100:.1f}",
                )
                for r in document["runs"]
            ],
        )
    for run in document["runs"]:
        if run["state"] == "damaged":
            say(f"damaged: {run['message']}")
    if "faults" in document:
        for fault in document["faults"]:
            say(f"damaged: {fault}")
        say("every stored array is sound" if not document["faults"] else "")


def _volume_row(volume: dict[str, Any]) -> tuple[str, ...]:
    if volume["damaged"]:
        return volume["name"], volume["role"], "damaged", *["–"] * 4
    made = volume["prediction"]
    return (
        volume["name"],
        volume["role"],
        " × ".join(map(str, volume["shape"])),
        " × ".join(f"{mm:g}" for mm in volume["spacing"]),
        volume["dtype"],
        f"{volume['annotation']}, revision {volume['revision']}" if volume["annotation"] else "–",
        f"{made.get('run', '?')} at {made.get('step', '?')}" if made else "–",
    )


def _verify(project: Project, quiet: bool) -> list[str]:
    """Read all arrays of all volumes, every level; returns what is damaged."""
    from napari_crln.volume import store

    arrays = [array for volume in project.volumes.values() for array in _arrays(volume.path)]
    faults = []
    with progress_bar("verifying", shown=not quiet) as tell:
        for done, array in enumerate(arrays, start=1):
            try:
                store.verify(array)
            except CorruptData as error:
                faults.append(str(error))
            tell(done, len(arrays))
    return faults or _misfits(project)


def _misfits(project: Project) -> list[str]:
    """What is wrong with labels that are sound in themselves: of another shape, or beyond the project's classes."""
    faults = []
    for volume in project.volumes.values():
        try:
            if volume.coverage is not None:
                _check_labels(volume)
        except OutOfMemory:
            raise
        except CrlnError as error:
            faults.append(str(error))
    return faults


def _check_labels(volume: Volume) -> None:
    """`volume.read_targets` for what it refuses alone, part by part: the whole may be larger than memory."""
    import numpy as np

    from napari_crln.volume import annotation, store

    shape = store.open_array(annotation.folder_of(volume.path) / "0").shape
    if shape != volume.grid.shape:
        raise CorruptData(
            f"annotation of shape {shape}",
            f"its volume has {volume.grid.shape} (D, H, W)",
            "Restore the annotation from a copy",
            volume.path,
        )
    highest = 0
    for d, h, w in store.parts(shape):
        box = (d.start, d.stop), (h.start, h.stop), (w.start, w.stop)
        highest = max(highest, int(volume.read_annotation(box).max()))
    volume.classes.targets(np.array([highest]))


def _arrays(volume: Path) -> Iterator[Path]:
    """Folders of a volume that are, or once were, arrays; what was written aside is left out."""
    for folder in sorted(p for p in volume.rglob("*") if p.is_dir()):
        parts = folder.relative_to(volume).parts
        if folder.name.isdecimal() and not any(p.startswith(".") or p == "c" for p in parts):
            yield folder


def _inspect_run(path: Path, as_json: bool) -> None:
    from napari_crln.run.folder import RunFolder

    run = RunFolder.open(path.resolve())
    status = run.status()
    document = {
        **_describe_run(run),
        "losses": status.losses,
        "checkpoints": _checkpoints(run),
        "config": run.config().model_dump(mode="json"),
    }
    if as_json:
        print_json(document)
        return
    say(
        f"{run.name}: {document['method']}, {document['state']} at iteration "
        f"{document['step']}/{document['iterations']}{': ' + status.message if status.message else ''}"
    )
    if status.losses:
        say("last losses: " + ", ".join(f"{name} {value:.4f}" for name, value in status.losses.items()))
    if document["checkpoints"]:
        print_table(
            ("checkpoint", "best", "sound"),
            [(c["name"], "yes" if c["best"] else "", c["fault"] or "yes") for c in document["checkpoints"]],
        )
    from napari_crln.events import CONFIG_FILE

    say(f"configuration: {path / CONFIG_FILE}")


def _checkpoints(run: RunFolder) -> list[dict[str, Any]]:
    """Each checkpoint with what is wrong with it, every byte checked."""
    from napari_crln.engine import checkpoint, manifest

    best = checkpoint.best_step(run.checkpoints)
    found = []
    for folder in sorted(run.checkpoints.glob("step-*")):
        fault = None
        try:
            manifest.read(folder)
        except CrlnError as error:
            fault = error.value
        is_best = best is not None and folder.name == checkpoint.step_name(best)
        found.append({"name": folder.name, "best": is_best, "sound": fault is None, "fault": fault})
    return found


def _inspect_file(path: Path, as_json: bool) -> None:
    from napari_crln.volume.nifti import read_image

    loaded = read_image(path)
    document = {
        "file": str(path),
        "shape": list(loaded.grid.shape),
        "spacing": list(loaded.grid.spacing),
        "dtype": str(loaded.voxels.dtype),
        "scaling": list(loaded.scaling),
        "minimum": float(loaded.voxels.min()),
        "maximum": float(loaded.voxels.max()),
        "affine": loaded.source.affine,
    }
    if as_json:
        print_json(document)
        return
    for name, value in document.items():
        say(f"{name:8} {value}")
