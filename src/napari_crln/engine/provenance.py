"""What a checkpoint was made with, and how what goes on with it differs: freely, with a warning, or not at all.

The configuration's own rules (`config.differences`) hold against the state, not against `config.toml`: so a file that was
edited by hand is checked like an option of `resume`.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

import napari_crln
from napari_crln import config
from napari_crln.engine.checkpoint import Snapshot
from napari_crln.errors import ConfigError
from napari_crln.events import Difference


def provenance(settings: config.RunConfig, device: torch.device) -> dict[str, Any]:
    """JSON-ready record of configuration, software and kind of device."""
    versions = {
        "napari_crln": napari_crln.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device.type,
    }
    return {"config": settings.model_dump(mode="json"), "made_with": versions}


def stamped(snapshot: Snapshot, settings: config.RunConfig, device: torch.device) -> Snapshot:
    """A snapshot that also says what it was made with."""
    return replace(snapshot, state={**snapshot.state, **provenance(settings, device)})


def differences(
    state: Mapping[str, Any], settings: config.RunConfig, device: torch.device
) -> list[Difference]:
    """How a run that goes on from a checkpoint's state differs from the one that wrote it.

    Raises
    ------
    ConfigError
        If a field differs that may not.
    """
    now = provenance(settings, device)
    found = []
    if state["config"] is not None:
        for name, before, after, rule in config.differences(config.build(state["config"]), settings):
            if rule == "never":
                raise _refusal(name, before, after)
            found.append(Difference(field=name, before=str(before), after=str(after), rule=rule))
    for name, before in (state["made_with"] or {}).items():
        after = now["made_with"].get(name)
        if before != after:
            found.append(Difference(field=name, before=str(before), after=str(after), rule="warn"))
    return found


def remarks(skipped: Iterable[str], found: Iterable[Difference]) -> Iterator[str]:
    """What a person should know of where a run goes on from: checkpoints passed over, and what may matter."""
    for message in skipped:
        yield f"checkpoint skipped: {message}"
    for difference in found:
        if difference.rule == "warn":
            change = f"{difference.field} changes from {difference.before} to {difference.after}"
            yield f"{change}: the run is no longer one of a single setting"


def _refusal(name: str, before: Any, after: Any) -> ConfigError:
    return ConfigError(
        f"{name} = {after} (was {before})",
        "it may not change when a run is resumed",
        "Set it back, or train a new run with it",
        "config.toml",
    )
