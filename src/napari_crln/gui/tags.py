"""What our layers say about themselves, under `layer.metadata["crln"]`.

The panel finds by it which project, volume or run a layer belongs to, whatever the user renamed it to. Every value is
plain JSON, so that napari may copy, save or print it.

| key | value |
|---|---|
| content | "file", "image", "annotation", "prediction", "preview" or "sample" |
| project, volume | folder of the project, name of the volume |
| run | folder of the run |
| revision, coverage | of an annotation, when it was read |
| source | the `Source` of a file, as a dictionary: the grid that results go back to |
| generation | of a preview |
| true_affine | of an oblique volume, which is shown along the world's axes: voxel (x, y, z) to RAS+ mm |
| preset | of sample data: what runs on a project of them begin with |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Key in a layer's metadata.
KEY = "crln"


def tag(content: str, **facts: Any) -> dict[str, Any]:
    """Metadata of one of our layers."""
    return {KEY: {"content": content, **facts}}


def tag_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a layer says about itself; empty for a stranger's. A bare word is its content."""
    found = metadata.get(KEY)
    if isinstance(found, str):
        return {"content": found}
    return dict(found) if isinstance(found, Mapping) else {}
