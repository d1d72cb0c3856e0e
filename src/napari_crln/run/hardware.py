"""What this machine can train on, told without importing torch: it costs seconds, and the viewer must not.

A guess for choosing sizes before a run starts. The engine itself asks torch.
"""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path
from shutil import which


def guess_device() -> str:
    """What `auto` will most likely mean here: cuda, mps or cpu."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    driver = Path("/proc/driver/nvidia/version").exists() or which("nvidia-smi") is not None
    return "cuda" if driver and not _torch_is_for_cpus() else "cpu"


def _torch_is_for_cpus() -> bool:
    try:
        return metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return True
