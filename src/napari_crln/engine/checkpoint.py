"""Checkpoints: what a run needs to go on, written so that no crash leaves half of one.

    checkpoints/
      step-00000500/   student.safetensors … state.json, and manifest.json, written last
      best.json        the step that did best on validation
      damaged-…        a checkpoint that failed its check, set aside when the run went on from an older one

A checkpoint is a folder written aside, fsynced file by file, and renamed; so one that bears its name is
complete. The manifest holds size and SHA-256 of every file and its own digest: bytes are checked before
they are parsed, what the manifest does not list is never opened, and nothing is ever unpickled. Order is
by step, never by a clock. One writer at a time: the run's lock sees to that.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors

from napari_crln import durable
from napari_crln.engine import manifest
from napari_crln.engine.failpoint import failpoint
from napari_crln.errors import CorruptCheckpoint, RunError, TrainingDiverged

SCHEMA = 2
BEST_FILE = "best.json"
STATE_FILE = "state.json"
#: Groups whose tensors must be finite.
FINITE_GROUPS = ("student", "teacher")

_STEP = re.compile(r"step-(\d{8,})")
_REPLACED = re.compile(r"\.replaced-step-(\d{8,})")
_GROUP = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Snapshot:
    """State of a run after `step` optimiser steps.

    Parameters
    ----------
    step : optimiser steps done
    tensors : groups ("student", "teacher", "optimiser", "rng", …) of named tensors, any shape and dtype;
        loaded on the CPU, contiguous, sharing no memory
    state : what JSON holds: numbers, strings, lists, objects (tuples come back as lists)
    """

    step: int
    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    state: Mapping[str, Any]


def from_1_without_provenance(snapshot: Snapshot) -> Snapshot:
    """Schema 2 says what it was made with, and the sizes that fitted in memory; of schema 1 nobody knows."""
    unknown = {"config": None, "made_with": None, "fitted": None}
    return replace(snapshot, state={**unknown, **snapshot.state})


#: Schema n → the function that brings a snapshot of schema n to schema n + 1.
UPGRADES: dict[int, Callable[[Snapshot], Snapshot]] = {1: from_1_without_provenance}


def save(folder: Path, snapshot: Snapshot, *, keep: int, best: bool = False) -> Path:
    """Write a checkpoint, then delete all but the newest `keep` and the best.

    Parameters
    ----------
    folder : the run's `checkpoints` folder; made if missing, the run's folder is not
    keep : checkpoints kept besides the best, at least 1
    best : this one did best on validation so far

    Returns
    -------
    The checkpoint's folder. A checkpoint of the same step is replaced once the new one is complete.

    Raises
    ------
    TrainingDiverged
        If a student or teacher tensor is not finite; nothing is written.
    OutOfSpace
        If the disk is full; earlier checkpoints are untouched and no leftover stays.
    """
    _require_finite(snapshot, folder)
    folder.mkdir(exist_ok=True)  # its parent must be there: a run folder that is away is not made anew
    _sweep(folder)
    files = _files(snapshot)
    with durable.space_for(folder, sum(map(len, files.values()))):
        path = _publish(folder, snapshot.step, files, best)
        if best:
            failpoint("checkpoint:best")
            durable.replace(folder / BEST_FILE, json.dumps({"step": snapshot.step}).encode())
    failpoint("checkpoint:prune")
    _set_aside_damaged(folder, snapshot.step)
    _prune(folder, snapshot.step, keep)
    return path


def load(path: Path) -> Snapshot:
    """Read one checkpoint folder, after checking every byte of it.

    Raises
    ------
    CorruptCheckpoint
        If a file is missing, a link, or not what the manifest says; the message names it.
    RunError
        If there is no such checkpoint, or a newer version wrote it.
    """
    if not path.is_dir():
        raise RunError(f"no checkpoint {path.name}", "a checkpoint is a folder", "Check the path", path)
    record, files = manifest.read(path)
    schema = record["schema_version"]
    if schema > SCHEMA:
        raise RunError(
            f"schema {schema}", f"this version reads up to schema {SCHEMA}", "Update napari-crln", path
        )
    snapshot = Snapshot(record["step"], _parse_tensors(path, files), _parse_state(path, files))
    for version in range(schema, SCHEMA):
        snapshot = UPGRADES[version](snapshot)
    return snapshot


def latest(folder: Path) -> tuple[Snapshot | None, list[str]]:
    """The checkpoint of the highest step that verifies, and why damaged higher ones were skipped.

    Raises
    ------
    RunError
        If a newer version wrote one: going on from an older step would waste sound work.
    """
    skipped: list[str] = []
    for path in _candidates(folder):
        try:
            return load(path), skipped
        except CorruptCheckpoint as error:
            skipped.append(str(error))
        except RunError:
            if path.exists():  # else pruned by the engine while we looked
                raise
    return None, skipped


def none_sound(folder: Path, skipped: list[str]) -> CorruptCheckpoint:
    """The error for a run that cannot go on: it says why its last checkpoint was skipped."""
    return CorruptCheckpoint(
        f"none of {len(skipped)} checkpoints is sound, the last because: {skipped[0]}",
        "a run goes on from a checkpoint whose bytes match its manifest",
        "Restore the folder from a backup, or start a new run",
        folder,
    )


def best(folder: Path) -> Snapshot | None:
    """The checkpoint that did best on validation; None if no validation has named one.

    Raises
    ------
    CorruptCheckpoint
        If the best checkpoint is damaged.
    """
    step = best_step(folder)
    return None if step is None else load(folder / step_name(step))


def best_step(folder: Path) -> int | None:
    """Step of the best checkpoint.

    The manifests say it too, for a crash before `best.json` is written and for damage to it; of several
    the latest is meant, as a later best is a better one.
    """
    marked = [step for step, path in _steps(folder).items() if manifest.peek(path).get("best") is True]
    return max([*marked, *_named_best(folder)], default=None)


def step_name(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def _named_best(folder: Path) -> list[int]:
    path = folder / BEST_FILE
    try:
        return [int(json.loads(manifest.read_bytes(path))["step"])]
    except (OSError, CorruptCheckpoint, ValueError, KeyError, TypeError):
        return []


def _require_finite(snapshot: Snapshot, folder: Path) -> None:
    for group in FINITE_GROUPS:
        for name, tensor in snapshot.tensors.get(group, {}).items():
            if not bool(torch.isfinite(tensor.detach()).all()):
                raise TrainingDiverged(
                    f"{group} tensor {name!r} holds NaN or infinity at step {snapshot.step}",
                    "only finite weights are saved",
                    "Resume from the last checkpoint with a lower learning rate",
                    folder,
                )


def _files(snapshot: Snapshot) -> dict[str, bytes]:
    files = {STATE_FILE: json.dumps(dict(snapshot.state)).encode()}
    for group, tensors in snapshot.tensors.items():
        if not _GROUP.fullmatch(group):
            raise ValueError(f"group {group!r}: lower-case letters, digits and _ only")
        files[f"{group}.safetensors"] = dump_tensors({name: _detached(t) for name, t in tensors.items()})
    return files


def _detached(tensor: torch.Tensor) -> torch.Tensor:
    """Own contiguous copy on the CPU: safetensors refuses views and shared memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def _publish(folder: Path, step: int, files: Mapping[str, bytes], is_best: bool) -> Path:
    path = folder / step_name(step)
    with durable.aside(path) as aside:
        _write_aside(aside, step, files, is_best)
        failpoint("checkpoint:rename")
        _swap_in(aside, path)
    failpoint("checkpoint:renamed")
    durable.sync(folder)
    return path


def _write_aside(aside: Path, step: int, files: Mapping[str, bytes], is_best: bool) -> None:
    aside.mkdir()
    failpoint("checkpoint:begin")
    for name, data in files.items():
        durable.write_new(aside / name, data)
        failpoint("checkpoint:file")
    failpoint("checkpoint:manifest")
    record = manifest.make(files, schema_version=SCHEMA, step=step, best=is_best)
    durable.write_new(aside / manifest.MANIFEST_FILE, record)
    failpoint("checkpoint:fsync")
    durable.sync(aside)


def _swap_in(aside: Path, path: Path) -> None:
    """Rename into place; what has the name already keeps existing until the new one has it."""
    # Not durable.replacing_folder: the replaced one keeps its step's number, for readers rank both by it.
    old = path.with_name(f".replaced-{path.name}")
    if path.exists():
        path.rename(old)
        failpoint("checkpoint:replace")
    aside.rename(path)
    _delete(old)


def _sweep(folder: Path) -> None:
    """Finish what a killed writer left: put a replaced checkpoint back, delete what is half-written."""
    for entry in list(folder.iterdir()):
        if match := _REPLACED.fullmatch(entry.name):
            whole = folder / step_name(int(match[1]))
            _delete(entry) if whole.exists() else entry.rename(whole)
    for entry in list(folder.iterdir()):
        if entry.name.startswith(durable.TEMPORARY):  # whoever's: under the run's lock nobody else is writing
            _delete(entry)


def _prune(folder: Path, saved: int, keep: int) -> None:
    steps = _steps(folder)
    kept = {saved, best_step(folder), *sorted(steps)[-max(keep, 1) :]}
    for step, path in steps.items():
        if step not in kept:
            _delete(path)


def _set_aside_damaged(folder: Path, saved: int) -> None:
    """A run that goes on from an older checkpoint leaves damaged newer ones, which must not count as newest."""
    for step, path in _steps(folder).items():
        if step > saved and not manifest.verifies(path):
            target = folder / f"damaged-{path.name}"
            if not target.exists():
                path.rename(target)


def _delete(path: Path) -> None:
    """Delete so that a crash midway leaves a leftover, not half a checkpoint."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        doomed = path if path.name.startswith(durable.TEMPORARY) else durable.temporary(path)
        if doomed != path:
            path.rename(doomed)
            failpoint("checkpoint:delete")
        shutil.rmtree(doomed, ignore_errors=True)


def _steps(folder: Path) -> dict[int, Path]:
    return {int(match[1]): path for path, match in _matching(folder, _STEP)}


def _candidates(folder: Path) -> list[Path]:
    """Checkpoints from the highest step down; one that was being replaced comes after its successor."""
    found = [(int(m[1]), 1, path) for path, m in _matching(folder, _STEP)]
    found += [(int(m[1]), 0, path) for path, m in _matching(folder, _REPLACED)]
    return [path for _, _, path in sorted(found, reverse=True)]


def _matching(folder: Path, pattern: re.Pattern[str]) -> list[tuple[Path, re.Match[str]]]:
    entries = list(folder.iterdir()) if folder.is_dir() else []
    return [(path, match) for path in entries if (match := pattern.fullmatch(path.name))]


def _parse_tensors(path: Path, files: Mapping[str, bytes]) -> dict[str, dict[str, torch.Tensor]]:
    groups = {}
    for name, data in files.items():
        if name.endswith(".safetensors"):
            try:
                groups[name.removesuffix(".safetensors")] = dict(load_tensors(data))
            except SafetensorError as error:
                raise manifest.corrupt(path / name, f"not safetensors: {error}") from error
    return groups


def _parse_state(path: Path, files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        return dict(json.loads(files[STATE_FILE]))
    except (KeyError, ValueError, TypeError) as error:
        raise manifest.corrupt(path / STATE_FILE, f"not a JSON object: {error}") from error
