"""What a user chose for training, and the configuration that it makes: the same as `napari-crln train` makes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_crln import config
from napari_crln.config import AUTOMATIC, MethodName, RunConfig
from napari_crln.engine.plan import plan
from napari_crln.run.hardware import guess_device
from napari_crln.types import ShapeDHW

METHODS: tuple[MethodName, ...] = ("crln", "supervised", "mean-teacher", "ua-mt", "cutmix", "bcp")
DEVICES = ("auto", "cpu", "cuda", "mps")
_ITERATIONS = {"cpu": 1000}
_GPU_ITERATIONS = 10_000
_WATCHED = "engine.log_every=1"  # of steps that are slow: somebody is watching


@dataclass(frozen=True)
class TrainingForm:
    """The fields of the Train section.

    Parameters
    ----------
    settings : further fields as `section.field=value`, parted by blanks or semicolons
    of_project : the preset is the one that the project names, no choice of the user's
    """

    preset: str = AUTOMATIC
    method: MethodName = "crln"
    iterations: int = _ITERATIONS["cpu"]
    device: str = "auto"
    settings: str = ""
    of_project: bool = False


def preset_names() -> list[str]:
    """What may be chosen as a preset, the automatic one first."""
    return [AUTOMATIC, *config.presets()]


def usual_iterations(preset: str, device: str) -> int:
    """Length that a preset asks for; without one, what is worth while on such a device."""
    if preset != AUTOMATIC:
        return config.build(config.load_preset(preset)).iterations
    return _ITERATIONS.get(_kind(device), _GPU_ITERATIONS)


def form_for(preset: str | None, form: TrainingForm) -> TrainingForm:
    """The form for another project: its preset if it names one that may be chosen; a preset of the user's stays."""
    named = preset is not None and preset in preset_names()
    if not named and not form.of_project:
        return form
    preset = preset if preset is not None and named else AUTOMATIC
    return replace(form, preset=preset, iterations=usual_iterations(preset, form.device), of_project=named)


def run_config(form: TrainingForm, shapes: Sequence[ShapeDHW]) -> RunConfig:
    """Configuration of a new run on volumes of these shapes.

    Raises
    ------
    ConfigError
        If a setting is wrong; the message names it.
    """
    layers = _layers(form, _settings(form))
    plain = config.build(config.load_preset(form.preset), *layers)
    if form.preset != AUTOMATIC or not shapes:
        return plain
    return config.build(plan(shapes, plain.iterations, cpu=_kind(plain.engine.device) == "cpu"), *layers)


def command_line(form: TrainingForm, project: Path) -> str:
    """What does the same in a shell.

    Raises
    ------
    ConfigError
        If a setting is wrong; the message names it.
    """
    # Written out also where it is automatic: else the shell takes the preset that the project names.
    words = ["napari-crln", "train", str(project), "--preset", form.preset]
    words += ["--method", form.method, "--iterations", str(form.iterations), "--device", form.device]
    for text in _settings(form):
        words += ["--set", text]
    return shlex.join(words)


def _layers(form: TrainingForm, settings: Sequence[str]) -> list[dict[str, Any]]:
    """What the form lays over a preset; later ones win."""
    chosen = {
        "method": {"name": form.method},
        "iterations": form.iterations,
        "engine": {"device": form.device},
    }
    return [chosen, *(config.assignment(text, "Settings") for text in settings)]


def _settings(form: TrainingForm) -> list[str]:
    """What is set beside the fields, as `--set` of the command line takes it."""
    own = typed_settings(form)
    device = config.build(*_layers(form, own)).engine.device
    return [_WATCHED, *own] if _kind(device) == "cpu" else own


def typed_settings(form: TrainingForm) -> list[str]:
    """The texts `section.field=value` that the user typed."""
    return form.settings.replace(";", " ").split()


def _kind(device: str) -> str:
    return guess_device() if device == "auto" else device.partition(":")[0]
