"""What a run was made with: versions, machine, command. Read from metadata, so that nothing heavy is imported."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import napari_crln

PACKAGES = ("torch", "numpy", "zarr", "tensorstore", "safetensors", "nibabel", "scipy", "pydantic")


def environment() -> dict[str, Any]:
    """JSON-ready record of this process: package, Python, machine, library versions, command line, git."""
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "napari_crln": napari_crln.__version__,
        "git": git_revision(Path(napari_crln.__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "host": socket.gethostname(),
        "command": list(sys.argv),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def git_revision(folder: Path) -> str | None:
    """Commit that the sources in a folder are checked out at, `-dirty` if changed; None if git tracks them not."""
    tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")
    revision = _git(folder, "rev-parse", "HEAD") if tracked else None
    if not revision:
        return None
    return f"{revision}-dirty" if _git(folder, "status", "--porcelain", "-uno", "--", ".") else revision


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        reply = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return reply.stdout.strip() if reply.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
