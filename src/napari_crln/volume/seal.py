"""A seal on metadata: the SHA-256 of what a zarr.json says, kept in that file.

Chunks carry checksums; zarr.json does not, and a flipped bit there may turn uint8 into int8, crop an axis or move
an affine without any error. Sealed is what we read: an array's own description, and our `crln` attributes. Other
tools may add to the file. A seal tells damage, not forgery: whoever edits a file can seal it again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from napari_crln.errors import CorruptData

#: Key of our attributes, beside OME's.
KEY = "crln"
SEAL = "sha256"
_DESCRIPTION = (
    "zarr_format",
    "node_type",
    "shape",
    "data_type",
    "chunk_grid",
    "chunk_key_encoding",
    "fill_value",
    "codecs",
)


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """A zarr.json, of a group or an array, with its seal."""
    attributes = dict(document.get("attributes") or {})
    attributes[KEY] = {**attributes.get(KEY, {}), SEAL: _digest(document)}
    return {**document, "attributes": attributes}


def check_seal(document: dict[str, Any], folder: Path) -> None:
    """Refuse a zarr.json whose seal is not its content's; one without a seal is of an older version.

    Raises
    ------
    CorruptData
        If a byte of what is sealed has changed.
    """
    mine = (document.get("attributes") or {}).get(KEY) or {}
    if SEAL in mine and mine[SEAL] != _digest(document):
        raise CorruptData(
            "zarr.json does not match its seal",
            "a volume's description is as it was written",
            "Restore it from a copy, or import the volume again",
            folder,
        )


def _digest(document: dict[str, Any]) -> str:
    """SHA-256 of what counts, in one spelling."""
    mine = (document.get("attributes") or {}).get(KEY) or {}
    content = {
        "description": {name: document[name] for name in _DESCRIPTION if name in document},
        KEY: {name: value for name, value in mine.items() if name != SEAL},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
