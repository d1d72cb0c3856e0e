"""How fast patches come, against a memory map: the limit of what a disk's page cache gives.

    python benchmarks/supply.py --out benchmarks/results/supply-cpu.json

Timed in turns, in one process, with a warm page cache: patches of 112 × 112 × 80 (x, y, z) at the same random corners from

memmap      np.memmap of the raw volume, copied out and normalised in place: network-ready, as the others
raw         np.memmap, copied out and nothing more
resident    a `Cohort` that holds the volume (of `--resident` voxels an axis: it must fit in memory)
streamed    a `Cohort` over a project's volume on disk: sharded, LZ4 + bitshuffle, CRC32C, read ahead by two threads
streamed raw  the same without normalisation, against `raw`
zarr        the stored volume by zarr-python, for comparison

Targets: resident ≥ 0.9, streamed ≥ 0.4 of the memory map. The volume (uint16, `--size`³: 2 GB each way at 1024) is made slab by slab
in a temporary folder and deleted afterwards.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from record import record

from napari_crln import config
from napari_crln.engine.ahead import ReadAhead
from napari_crln.engine.cohort import Case, Cohort
from napari_crln.types import ShapeDHW
from napari_crln.volume import pyramid, store
from napari_crln.volume.intensity import Normalisation
from napari_crln.volume.streamed import ChunkCache, StreamedArray

PATCH: ShapeDHW = (80, 112, 112)
CPU = torch.device("cpu")
NORMALISATION = Normalisation(kind="percentile", low=0, high=4000, shift=0, scale=1 / 4000)
#: Cuts the patches at these corners.
Source = Callable[[list[ShapeDHW]], None]


def main() -> None:
    options = _parse()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        raw = _make(Path(folder), options.size)
        sources = _sources(Path(folder), raw, options)
        rates: dict[str, list[float]] = {name: [] for name in sources}
        for round_ in range(options.rounds + 1):  # the first warms the page cache
            corners = _corners(round_, options)
            for name, source in sources.items():
                rate = _rate(source, corners)
                print(f"round {round_} {name}: {rate:.1f} patches/s", flush=True)
                if round_:
                    rates[name].append(rate)
    results: dict[str, Any] = {
        name: {"patches_per_s": statistics.median(found)} for name, found in rates.items()
    }
    for result in results.values():
        result["of_memmap"] = result["patches_per_s"] / results["memmap"]["patches_per_s"]
        result["of_raw_memmap"] = result["patches_per_s"] / results["raw"]["patches_per_s"]
    for name, result in results.items():
        print(
            f"{name:14s} {result['patches_per_s']:7.1f} patches/s = {result['of_memmap']:.2f} × memmap,"
            f" {result['of_raw_memmap']:.2f} × raw memmap"
        )
    if options.out:
        settings = {k: v for k, v in vars(options).items() if k not in ("out", "folder")}
        record(options.out, ["python", *sys.argv], {"settings": settings, "sources": results}, [0])


def _sources(folder: Path, raw: NDArray[Any], options: argparse.Namespace) -> dict[str, Source]:
    side = min(options.resident, options.size)
    part = np.ascontiguousarray(raw[:side, :side, :side])
    resident = Cohort([Case("r", part, NORMALISATION)], PATCH, CPU)
    cache = ChunkCache(options.cache_mb)
    image = StreamedArray(folder / "volume" / "0", cache)
    streamed = Cohort([Case("s", image, NORMALISATION)], PATCH, CPU)
    array = store.open_array(folder / "volume" / "0")

    def by_memmap(corners: list[ShapeDHW]) -> None:
        for corner in corners:
            _normalised(raw[_window(corner)])

    def by_raw(corners: list[ShapeDHW]) -> None:
        for corner in corners:
            np.array(raw[_window(corner)])

    def by_resident(corners: list[ShapeDHW]) -> None:
        limit = [side - p for p in PATCH]
        for corner in corners:
            d, h, w = (c % (most + 1) for c, most in zip(corner, limit, strict=True))
            resident.images([(0, (d, h, w))])

    def by_stream(corners: list[ShapeDHW], ready: bool = True) -> None:
        def fetch(step: int) -> None:
            if step < len(corners):
                streamed.fetch([(0, corners[step])])

        ahead = ReadAhead(fetch, steps=options.read_ahead)
        for step, corner in enumerate(corners):
            ahead.take(step)
            if ready:
                streamed.images([(0, corner)])
            else:
                streamed._held[0].image[_window(corner)]

    def by_zarr(corners: list[ShapeDHW]) -> None:
        for corner in corners[: len(corners) // 4]:
            _normalised(np.asarray(array[_window(corner)]))

    return {
        "memmap": by_memmap,
        "raw": by_raw,
        "resident": by_resident,
        "streamed": by_stream,
        "streamed raw": lambda corners: by_stream(corners, ready=False),
        "zarr": by_zarr,
    }


def _rate(source: Source, corners: list[ShapeDHW]) -> float:
    start = time.perf_counter()
    source(corners)
    share = 0.25 if source.__name__ == "by_zarr" else 1.0
    return share * len(corners) / (time.perf_counter() - start)


def _normalised(patch: NDArray[Any]) -> torch.Tensor:
    """What a cohort does with a patch."""
    n = NORMALISATION
    return torch.from_numpy(patch.astype(np.float32)).clamp_(n.low, n.high).sub_(n.shift).mul_(n.scale)


def _make(folder: Path, size: int) -> NDArray[Any]:
    """A structured uint16 volume with noise, as a raw file and as a stored array; returns the memory map."""
    raw = np.memmap(folder / "raw", np.uint16, "w+", shape=(size, size, size))
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    for start in range(0, size, 16):
        planes = min(16, size - start)
        noise = rng.normal(0, 60, (planes, size, size)).astype(np.float32)
        waves = 1500 + 800 * np.sin(x / 37 + start / 29) * np.cos(y / 53)
        raw[start : start + planes] = (waves + noise).clip(0, 4000).astype(np.uint16)
    raw.flush()
    levels = pyramid.plan((size, size, size), (1.0, 1.0, 1.0))[:1]
    store.write_multiscale(folder / "volume", raw, levels, "image", {})
    return raw


def _corners(seed: int, options: argparse.Namespace) -> list[ShapeDHW]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(options.patches):
        d, h, w = (int(rng.integers(options.size - p + 1)) for p in PATCH)
        found.append((d, h, w))
    return found


def _window(corner: ShapeDHW) -> tuple[slice, ...]:
    return tuple(slice(c, c + p) for c, p in zip(corner, PATCH, strict=True))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1024, help="voxels an axis")
    parser.add_argument(
        "--resident", type=int, default=512, help="voxels an axis that the resident cohort holds"
    )
    parser.add_argument("--patches", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--read-ahead", type=int, default=config.Engine().read_ahead)
    parser.add_argument("--cache-mb", type=int, default=config.Engine().chunk_cache_mb)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the temporary volume is made")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
