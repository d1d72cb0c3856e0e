"""What a project needs of open layers, kept apart from them, so that another thread may read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from napari_crln.gui.layer_geometry import PlacedArray, State
from napari_crln.gui.tags import tag_of
from napari_crln.types import Role
from napari_crln.volume.geometry import Grid


@dataclass(frozen=True, eq=False)
class LayerArray:
    """One layer: its name, its voxels (perhaps lazy) with their place, and the rest of it (features, colours, tag)."""

    name: str
    placed: PlacedArray
    state: State = field(repr=False)

    @cached_property
    def ras(self) -> PlacedArray:
        """Turned to RAS+, as a project stores it; a view."""
        return self.placed.to_ras()

    @cached_property
    def grid(self) -> Grid:
        return self.ras.grid

    @property
    def tag(self) -> dict[str, Any]:
        return tag_of(self.state.get("metadata") or {})

    @property
    def volume(self) -> str | None:
        """Project and name of its volume, if it is a layer of ours."""
        name = self.tag.get("volume")
        return None if name is None else f"{self.tag.get('project')}:{name}"


@dataclass(frozen=True, eq=False)
class LayerVolume:
    """One volume to be: its name in the project, its image, its labels if any, its role.

    Change name or role with `dataclasses.replace`.
    """

    name: str
    image: LayerArray
    labels: LayerArray | None
    role: Role
