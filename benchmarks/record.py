"""Write one measurement as JSON, with what is needed to repeat and to judge it (benchmarks/README.md)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

SCHEMA = 1
PACKAGES = ("torch", "numpy", "scipy", "zarr", "tensorstore", "napari-crln")


def record(
    path: Path, command: Sequence[str], results: Mapping[str, Any], seeds: Sequence[int] = ()
) -> dict[str, Any]:
    """Write `results` to `path`, whole or not at all, and return what was written.

    NaN and infinity are refused (ValueError): JSON has none, and a result should say what they mean.
    """
    entry = {
        "schema": SCHEMA,
        "command": list(command),
        "seeds": list(seeds),
        "results": dict(results),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision(Path(__file__).resolve().parent),
        "machine": machine(),
        "versions": versions(),
    }
    text = json.dumps(entry, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, "utf-8")
    aside.replace(path)
    return entry


def machine() -> dict[str, Any]:
    """CPU, usable cores, memory, GPU and system; nothing that names the host or its owner."""
    return {
        "cpu": _cpu_model(),
        "cores": _usable_cores(),
        "memory_gib": _memory_gib(),
        "gpu": _gpu(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str | None]:
    """Python's version and those of PACKAGES; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def revision(folder: Path) -> str | None:
    """Commit of the checkout around `folder`, with `+changes` if it has some; None outside git."""
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    if commit is None:
        return None
    status = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if status else commit


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _usable_cores() -> int | None:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_gib() -> float | None:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return round(pages * size / 2**30, 1)


def _gpu() -> str | None:
    """Name of the GPU that torch would use, asked only if torch is loaded already."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name())
