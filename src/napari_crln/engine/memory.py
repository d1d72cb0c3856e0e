"""How much memory a run has taken at most."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from napari_crln import config
from napari_crln.errors import OutOfMemory

_MEBI = 1 << 20


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory used so far, MiB: what torch allocated on a CUDA device, else the process's resident set.

    0.0 where the system does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MEBI
    return _resident_peak() / _MEBI


def _resident_peak() -> float:
    """Peak resident set in bytes.

    Linux: VmHWM, as `ru_maxrss` survives exec and would report the parent, say napari, that forked us.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def memory_guard(sizes: config.Batches) -> Iterator[None]:
    """Turn an allocator's failure during a training step into an error with a remedy.

    Raises
    ------
    OutOfMemory
        Where the device, or the machine, cannot hold the step.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        patch = " × ".join(map(str, sizes.patch))
        raise OutOfMemory(
            f"a step of {sizes.labelled} + {sizes.unlabelled} patches of {patch} voxels does not fit",
            "a step must fit the device's memory",
            "Halve batches.patch or the batch, or lower network.base_filters",
            "training",
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
