"""Build the sdist and the wheel, from the tree and from the sdist, and compare what is in them.

Usage: python .ci/check_package.py SCRATCH_FOLDER
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("napari_crln/napari.yaml", "napari_crln/py.typed", "napari_crln/presets/hippocampus.toml")
IN_SDIST = (
    "napari.yaml",
    "tox.ini",
    "constraints.txt",
    "LICENSE",
    "CITATION.cff",
    "SECURITY.md",
    ".ci",
    "tests",
    "docs",
)


def main(scratch: Path) -> None:
    """Raise SystemExit with a line that says what is missing or differs."""
    both, direct = scratch / "both", scratch / "direct"
    for folder in (both, direct):
        shutil.rmtree(folder, ignore_errors=True)
    _build("--outdir", str(both))  # the wheel of this one comes from the sdist
    _build("--wheel", "--outdir", str(direct))
    from_sdist, from_tree = (_wheel_members(folder) for folder in (both, direct))
    _require(from_sdist == from_tree, f"wheels differ: {sorted(from_sdist.items() ^ from_tree.items())}")
    manifest = (ROOT / "napari.yaml").read_bytes()
    missing = [name for name in NEEDED if name not in from_sdist]
    _require(not missing, f"the wheel lacks {missing}")
    with zipfile.ZipFile(next(both.glob("*.whl"))) as wheel:
        _require(wheel.read("napari_crln/napari.yaml") == manifest, "the wheel's napari.yaml is not the file")
    _check_sdist(next(both.glob("*.tar.gz")))
    print(f"sdist and wheels agree: {len(from_sdist)} files")


def _build(*options: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", *options, str(ROOT)], check=True, stdout=subprocess.DEVNULL
    )


def _wheel_members(folder: Path) -> dict[str, int]:
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return {item.filename: item.CRC for item in wheel.infolist()}


def _check_sdist(path: Path) -> None:
    with tarfile.open(path) as sdist:
        tops = {Path(name).parts[1] for name in sdist.getnames()}
    missing = [name for name in IN_SDIST if name not in tops]
    _require(not missing, f"the sdist lacks {missing}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise SystemExit(message)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
