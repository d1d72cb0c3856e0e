"""What this machine can train on, told without importing torch: it costs seconds, and the viewer must not.

A guess for choosing sizes before a run starts. The engine itself asks torch.
"""

from __future__ import annotations

import platform
import re
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from shutil import which


def guess_device() -> str:
    """What `auto` will most likely mean here: cuda, mps or cpu."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    driver = Path("/proc/driver/nvidia/version").exists() or which("nvidia-smi") is not None
    return "cuda" if driver and not _torch_is_for_cpus() else "cpu"


def _torch_is_for_cpus() -> bool:
    """Whether the installed torch was built without CUDA; without any torch, yes."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return True
    # Its metadata does not tell: PyPI's wheel for Windows is for CPUs, and its version has no "+cpu".
    try:
        text = Path(spec.origin).with_name("version.py").read_text("utf-8")
    except (OSError, ValueError):
        text = ""
    built = re.search(r"^cuda\b[^=\n]*=\s*(\S+)", text, re.MULTILINE)
    if built is not None:
        return built.group(1) == "None"
    try:
        return metadata.version("torch").endswith("+cpu")
    except metadata.PackageNotFoundError:
        return True
