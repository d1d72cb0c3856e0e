"""Small volumes, NIfTI files and projects for the tests of volume/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from napari_crln import durable
from napari_crln.volume.labels import ClassTable
from napari_crln.volume.project import Project

SaveNifti = Callable[..., Path]


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing to a shared disk is most of the time of these tests, and no test can pull the plug."""
    monkeypatch.setattr(durable, "sync", lambda path: None)


@pytest.fixture
def table() -> ClassTable:
    return ClassTable.from_ids({"background": 0, "head": 4, "tail": 7})


@pytest.fixture
def project(tmp_path: Path, table: ClassTable) -> Project:
    return Project.create(tmp_path / "p.crln", table)


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (6, 7, 8), dtype=np.uint8)


@pytest.fixture
def annotation() -> NDArray[np.uint8]:
    values = np.ones((6, 7, 8), np.uint8)
    values[2:4, 2:4, 2:4] = 2
    values[4, 4, 4] = 3
    return values


@pytest.fixture
def save(tmp_path: Path) -> SaveNifti:
    """Save an (x, y, z) array as NIfTI by nibabel; header fields by keyword."""

    def _save(name: str, array: NDArray[Any], affine: Any = None, **fields: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        saved = nib.Nifti1Image(array, np.eye(4) if affine is None else affine, dtype=array.dtype)
        nib.save(saved, path)
        if fields:
            patch_header(path, **fields)
        return path

    return _save


def patch_header(path: Path, **fields: Any) -> None:
    """Change header fields of an uncompressed NIfTI-1 file in place, as a broken writer would."""
    content = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(bytes(content))
