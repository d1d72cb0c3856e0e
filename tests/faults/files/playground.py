"""What the tests of hostile and damaged files share: files to start from, the command line, and what nobody may touch."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from napari_crln.volume.labels import ClassTable
from napari_crln.volume.project import Project

TABLE = ClassTable.from_ids({"background": 0, "head": 4, "tail": 7})
SHAPE = (18, 20, 22)
#: LPS, so that nothing is stored as it lies in the file; x, y, z of 0.5, 0.75 and 2 mm.
AFFINE = np.array([[-0.5, 0, 0, 30], [0, -0.75, 0, 40], [0, 0, 2.0, -7], [0, 0, 0, 1]])


class Answer(NamedTuple):
    """What a call of the command line came to."""

    code: int
    out: str
    err: str


Call = Callable[..., Answer]


@dataclass
class Playground:
    """`inside` is the user's; `outside` is not to be read from, `away` not to be written to.

    `damaged` says that a test leaves damage, for a person to look at: then `inspect` must find it.
    """

    inside: Path
    outside: Path
    away: tuple[Path, ...]
    damaged: bool = False

    @property
    def project_path(self) -> Path:
        return self.inside / "p.crln"

    def open(self) -> Project:
        return Project.open(self.project_path)

    def touched(self) -> dict[str, str]:
        """Everything in the folders that are nobody's business here, with its content."""
        return {
            str(path): path.readlink().as_posix() if path.is_symlink() else _digest(path)
            for folder in (self.outside, *self.away)
            for path in sorted(folder.rglob("*"))
        }


def voxels(seed: int = 0) -> NDArray[np.uint8]:
    """An image, (x, y, z), of noise over two boxes that `ids` has as 4 and 7."""
    noise = np.random.default_rng(seed).normal(40, 10, SHAPE)
    return np.asarray((noise + 15.0 * ids()).clip(0, 255).astype(np.uint8))


def ids() -> NDArray[np.uint8]:
    """A label, (x, y, z), in the ids of TABLE."""
    label = np.zeros(SHAPE, np.uint8)
    label[3:10, 4:12, 5:12] = 4
    label[11:16, 12:18, 13:20] = 7
    return label


def save(path: Path, array: NDArray[Any], affine: NDArray[Any] = AFFINE) -> Path:
    """Save an array (x, y, z) as NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine, dtype=array.dtype), path)
    return path


def nifti_header(**fields: Any) -> bytes:
    """352 bytes: a sound NIfTI-1 header of a 4 × 4 × 4 uint8 image, but for these fields."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((4, 4, 4))
    header.set_sform(np.diag([1.0, 1.0, 1.0, 1.0]), 1)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + bytes(4)


def packed(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)


def flip(path: Path, bit: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def children() -> set[int]:
    """Processes that this one has started and that still are."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    files = [task / "children" for task in tasks.iterdir()] if tasks.exists() else []
    return {int(pid) for file in files if file.exists() for pid in file.read_text("utf-8").split()}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"


def _to_secret(path: Path, ground: Playground) -> None:
    path.symlink_to(ground.outside / "secret.txt")


def _pipe(path: Path, ground: Playground) -> None:
    os.mkfifo(path)


def _folder(path: Path, ground: Playground) -> None:
    path.mkdir()


def _huge(path: Path, ground: Playground) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


SPECIAL = [_to_secret, _pipe, _folder, _huge]


@contextmanager
def unopened(folder: Path) -> Iterator[None]:
    """Nothing below the folder, or the folder itself, is opened, listed or looked into by Python meanwhile."""
    _WATCHED.append(str(folder))
    try:
        yield
    finally:
        _WATCHED.clear()
    opened, _OPENED[:] = list(_OPENED), []
    assert opened == []


_WATCHED: list[str] = []
_OPENED: list[str] = []


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if _WATCHED and event in ("open", "os.listdir", "os.scandir", "os.rename", "os.remove", "os.mkdir"):
        paths = [os.path.realpath(os.fsdecode(a)) for a in arguments if isinstance(a, str | bytes | Path)]
        _OPENED.extend(path for path in paths if path.startswith(os.path.realpath(_WATCHED[0])))


sys.addaudithook(_audit)  # for ever: Python takes none back
