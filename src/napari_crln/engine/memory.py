"""How much memory a run has taken at most, and what to say where there is too little."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from napari_crln.errors import OutOfMemory

_MEBI = 1 << 20
#: What is said where an allocation fails; torch has a type of its own for CUDA only.
_SIGNS = (
    "can't allocate memory",
    "out of memory",
    "bad_alloc",
    "could not create a memory",
    "could not create a primitive",
)


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
def memory_guard(what: str, remedy: str, where: str) -> Iterator[None]:
    """Turn an allocator's failure into an error with a remedy.

    Raises
    ------
    OutOfMemory
        Where the device, or the machine, cannot hold what the block does.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"{what} does not fit", "it must fit the device's memory", remedy, where) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator gave up: torch's on a device or the CPU, oneDNN's, C++'s or Python's."""
    told = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(s in told for s in _SIGNS)


def trim_heap() -> None:
    """Give back to the system what glibc's allocator holds free; elsewhere, nothing.

    Blocks of ever other sizes (batches, maps, copies of the state) leave holes, and a run of hours would grow by them:
    2 to 3 % in half an hour.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(ctypes.c_size_t(0))


def release(device: torch.device) -> None:
    """Give back what is no longer used, so that smaller parts can be had of it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
