"""In a process of its own with little memory: `bombed.py FOLDER` meets each bomb there, and reports as JSON lines.

A line says which error came, what it says, and by how many bytes the process grew at most.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from napari_crln.errors import CrlnError
from napari_crln.volume.decathlon import import_decathlon
from napari_crln.volume.nifti import read_image
from napari_crln.volume.project import Project

#: What a process may take beyond what it has.
ROOM = 512 << 20


def status(field: str) -> int:
    """A figure of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def attempts(folder: Path) -> dict[str, Callable[[], object]]:
    """What to try, by the name of the bomb."""

    def volume(name: str) -> object:
        return Project.open(folder / "p.crln").volumes[name]

    found: dict[str, Callable[[], object]] = {}
    for path in sorted(folder.glob("*.nii*")):
        found[path.name] = lambda path=path: read_image(path)
    for name in sorted(p.stem for p in (folder / "p.crln" / "volumes").glob("*.zarr")):
        found[f"{name} read"] = lambda name=name: volume(name).read_image()  # type: ignore[attr-defined]
        found[f"{name} lazily"] = lambda name=name: volume(name).image[0]  # type: ignore[attr-defined]
        found[f"{name} labels"] = lambda name=name: volume(name).read_annotation()  # type: ignore[attr-defined]
    found["project.toml"] = lambda: Project.open(folder / "manifest")
    found["dataset.json"] = lambda: import_decathlon(folder / "list", folder / "q.crln", 1)
    return found


def main(folder: Path) -> None:
    read_image(folder / "warm" / "up.nii.gz")
    Project.open(folder / "warm" / "p.crln").volumes["a"].read_image()
    limit = status("VmSize") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for name, attempt in attempts(folder).items():
        before = status("VmHWM")
        try:
            attempt()
            kind, message = "none", ""
        except CrlnError as error:
            kind, message = type(error).__name__, str(error)
        except BaseException as error:
            kind, message = f"not ours: {type(error).__name__}", str(error)
        print(json.dumps({"name": name, "kind": kind, "message": message, "grown": status("VmHWM") - before}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
